"""The store: one database, opened. Reads in threads, writes through the journal's one writer."""

import asyncio
import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Concatenate, ParamSpec, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from experiments.errors import Invalid
from server import clock
from server.store.engine import READERS, Database
from server.store.failures import translated
from server.store.journal import ROOM, Journal
from server.store.leases import Lease, require_held
from server.store.lock import Lock
from server.store.schema import migrate, require_current
from server.store.writer import Observer

P = ParamSpec("P")
T = TypeVar("T")


class Store:
    """An open database, for as long as a process serves. Made by `open`, ended by `close`."""

    def __init__(self, database: Database, lock: Lock | None, journal: Journal) -> None:
        self.database = database
        self.journal = journal
        self._lock = lock
        self._lease: Lease | None = None
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="ratchet-reader")

    @classmethod
    def open(cls, url: str, *, migrating: bool = False, room: int = ROOM, observe: Observer | None = None) -> Self:
        """Open the database at `url`; with `migrating`, bring its tables up to date first. Blocks.

        Raises: Invalid for a URL it cannot use; Conflict when another server holds this SQLite file (naming it) or the
        tables are not this version's (naming the cure); Unavailable.
        """
        database = Database(url)
        lock = take_lock(database)
        try:
            with told():
                if migrating:
                    migrate(database)
                with database.writer.begin() as conn:
                    require_current(conn)
            return cls(database, lock, Journal(database.writer, room=room, observe=observe))
        except BaseException:
            database.close()
            if lock:
                lock.release()
            raise

    async def read(self, function: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a reading function in a thread, on one snapshot. Raises: what it raises, Unavailable."""

        def run() -> T:
            with told(), self.database.readers.connect() as conn:
                return function(conn, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    async def write(self, function: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a writing function as one transaction; see `Journal.run`. Returns once it is durable."""
        if self._lease is not None:
            function = _while_held(self._lease, function)
        return await self.journal.run(function, *args, **kwargs)

    def under(self, lease: Lease) -> Self:
        """The same store for one who acts under a lease: once that is lost, every `write` raises Stale.

        It is not to be closed, and facts are not to be appended through it.
        """
        view = copy.copy(self)
        view._lease = lease  # noqa: SLF001 -- one of our own kind
        return view

    async def close(self) -> None:
        """Commit what is queued, then close everything and let go of the file."""
        await asyncio.to_thread(self.journal.close)
        self._threads.shutdown()
        self.database.close()
        if self._lock:
            self._lock.release()


def _while_held(
    lease: Lease, function: Callable[Concatenate[sa.Connection, P], T]
) -> Callable[Concatenate[sa.Connection, P], T]:
    def run(conn: sa.Connection, /, *args: P.args, **kwargs: P.kwargs) -> T:
        require_held(conn, lease)
        return function(conn, *args, **kwargs)

    return run


@contextmanager
def read_only(url: str) -> Iterator[sa.Connection]:
    """A connection for verbs that only look (`replay`, `doctor`), also beside a running server; one snapshot.

    Raises: Invalid for a URL it cannot use or a file that does not exist; Unavailable.
    """
    database = Database(url)
    if database.path and not database.path.exists():
        raise Invalid(f"there is no database at {database.path}; `ratchet up` makes one")
    try:
        with told(), database.readers.connect() as conn:
            yield conn
    finally:
        database.close()


def migrate_at(url: str) -> None:
    """Bring the tables at `url` up to date (`ratchet migrate`). Raises: as `Store.open`."""
    database = Database(url)
    lock = take_lock(database)
    try:
        with told():
            migrate(database)
    finally:
        database.close()
        if lock:
            lock.release()


def take_lock(database: Database) -> Lock | None:
    """The lock on an SQLite file; its directory is made if need be. PostgreSQL needs none."""
    if database.path is None:
        return None
    try:
        database.path.parent.mkdir(parents=True, exist_ok=True)
        return Lock(database.path, clock.now())
    except OSError as error:
        raise Invalid(
            f"cannot write to {database.path.parent}: {error.strerror}; give RATCHET_DATA another directory"
        ) from None


@contextmanager
def told() -> Iterator[None]:
    """Errors of the database as ours."""
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise translated(error) from error
