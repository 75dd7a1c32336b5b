"""The database behind a URL: SQLite or PostgreSQL, opened for exactly one writing connection and any number of readers.

SQLite before 3.51.3 can corrupt a WAL file when two connections write or checkpoint at the same time. So exactly one
connection here ever does: readers open the file read-only, and a lock file keeps a second server out.
"""

import importlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

from experiments.errors import Invalid

SAFE_SQLITE = (3, 51, 3)
READERS = 8
"""Reading connections of one process; also how many threads read at a time."""

_BUSY = 5
"""Seconds a SQLite connection waits for a lock."""
_JOURNAL_LIMIT = 64 * 2**20
"""Bytes the WAL file is cut back to after a checkpoint."""
_LONGEST_READ = 30
"""Seconds one reading statement may take: an endless one keeps the WAL file, or old rows, from being cleared."""
_CHECKPOINT = 4000
"""Pages in the WAL file at which the writer moves them into the database: 16 MB."""
_CACHE = 16_384
"""KiB of pages the writer keeps. The index by unit is met in random order, yet up to half a million predictions four
times as much wrote no faster."""
_CONNECT = 3
"""Seconds to wait for a PostgreSQL connection, and for an answer from a network that has gone silent."""


class Database:
    """Two engines on one database: `writer` with a single connection, `readers` that cannot write.

    `path` is the SQLite file, None on PostgreSQL. `warnings` are sentences an operator ought to read.
    """

    def __init__(self, url: str) -> None:
        self.url = parse(url)
        self.path = Path(self.url.database or "") if self.sqlite else None
        self.warnings: tuple[str, ...] = ()
        if self.sqlite:
            module = _sqlite_module()
            self.warnings = _sqlite_warnings(module.sqlite_version_info)
            self.writer = _sqlite_engine(self.url, module, _prepare_writer, "BEGIN IMMEDIATE", pool_size=1)
            self.readers = _sqlite_engine(_read_only(self.url), module, _prepare_reader, "BEGIN", pool_size=READERS)
            _bound_reads(self.readers)
        else:
            self.writer = _postgres_engine(self.url, _DURABLE, pool_size=1)
            self.readers = _postgres_engine(self.url, _NEVER_WRITES, pool_size=READERS)

    @property
    def sqlite(self) -> bool:
        """Whether this is the embedded database."""
        return self.url.get_backend_name() == "sqlite"

    def close(self) -> None:
        """Close every connection; the writer's last, so that nobody else checkpoints the WAL."""
        self.readers.dispose()
        self.writer.dispose()


def parse(url: str) -> sa.URL:
    """Raises: Invalid unless it is sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/NAME."""
    allowed = "write sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/NAME"
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise Invalid(f"the database URL cannot be read; {allowed}") from None
    if parsed.drivername == "sqlite":
        if not parsed.database or parsed.database == ":memory:" or parsed.host or parsed.query:
            raise Invalid(f"an SQLite URL names a file and nothing else; {allowed}")
    elif parsed.drivername != "postgresql+psycopg":
        raise Invalid(f"{parsed.drivername!r} is not a database Ratchet can use; {allowed}")
    elif not parsed.database:
        raise Invalid(f"the database URL names no database; {allowed}")
    return parsed


def _sqlite_module() -> ModuleType:
    """A bundled, recent SQLite where it is installed, else the one Python was built with."""
    try:
        return importlib.import_module("pysqlite3")
    except ImportError:
        return sqlite3


def _sqlite_warnings(version: tuple[int, ...]) -> tuple[str, ...]:
    if version >= SAFE_SQLITE:
        return ()
    here, safe = (".".join(map(str, v)) for v in (version, SAFE_SQLITE))
    return (
        f"SQLite {here} may damage its file if another program writes to it; install pysqlite3 for {safe} or later",
    )


def _read_only(url: sa.URL) -> sa.URL:
    return url.set(
        database=f"file:{quote(str(Path(url.database or '').absolute()))}", query={"mode": "ro", "uri": "true"}
    )


def _sqlite_engine(
    url: sa.URL, module: ModuleType, prepare: Callable[[Any], None], begin: str, pool_size: int
) -> sa.Engine:
    engine = sa.create_engine(
        url,
        module=module,
        hide_parameters=True,  # what is stored must not turn up in a log
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=2 * _BUSY,
        connect_args={"timeout": _BUSY, "check_same_thread": False, "cached_statements": 512},
    )

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver's guess
        prepare(connection)

    @sa.event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _prepare_writer(connection: Any) -> None:
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        f"journal_size_limit = {_JOURNAL_LIMIT}",
        f"cache_size = -{_CACHE}",
        f"wal_autocheckpoint = {_CHECKPOINT}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _bound_reads(engine: sa.Engine) -> None:
    """End any statement after `_LONGEST_READ`, which SQLite has no setting for."""

    @sa.event.listens_for(engine, "before_cursor_execute")
    def begun(_conn: object, cursor: Any, *_rest: object) -> None:
        end = time.monotonic() + _LONGEST_READ
        cursor.connection.set_progress_handler(lambda: time.monotonic() > end, 100_000)


def _prepare_reader(connection: Any) -> None:
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA wal_autocheckpoint = 0")


def _postgres_engine(url: sa.URL, prepare: str, pool_size: int) -> sa.Engine:
    engine = sa.create_engine(
        url,
        hide_parameters=True,  # as above
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=2 * _CONNECT,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": _CONNECT,
            "keepalives_idle": _CONNECT,
            "tcp_user_timeout": _CONNECT * 1000,
            "application_name": "ratchet",
        },
    )

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.autocommit = True
        connection.execute(prepare)
        connection.autocommit = False

    return engine


_DURABLE = (
    "SET idle_in_transaction_session_timeout = '10s'; "
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)
"""An acknowledged commit must be on disk, whatever the server's default says; and a process that is suspended in the
middle of one must not keep the others from what it has locked."""
_NEVER_WRITES = (
    "SET default_transaction_read_only = on; SET default_transaction_isolation = 'repeatable read'; "
    f"SET statement_timeout = '{_LONGEST_READ}s'"
)
"""Readers cannot write, see one snapshot, and no statement holds back vacuum for ever."""
