"""The one thread that writes: it gathers, commits, and tells those who wait.

A group is whatever queued while the group before was being committed. Waiting a little longer (lingering) to make it
larger pays only where a commit is slow, and never more than a quarter of one.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import sqlalchemy as sa

from experiments.errors import Unavailable
from server.store.appending import Entry, append
from server.store.failures import outage, translated

Observer = Callable[[int, float], None]

LARGEST = 1000
"""Entries in a group at most."""
PATIENCE = 5.0
"""Seconds an entry waits for a database that is down."""

_LONGEST_LINGER = 0.001
_LEAST_LINGER = 0.0002
"""Below this a thread cannot be woken in time."""
_PROBE = 0.5
"""Seconds between looks at an idle or lost database."""


class Job(msgspec.Struct, frozen=True):
    """A function to be run on the writing connection."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Ticket(msgspec.Struct, eq=False):
    """Something to be written and the future to be told; `since` is when (monotonic seconds) it was handed in."""

    work: Entry | Job
    future: "asyncio.Future[Any]"
    since: float = 0.0


class _Raised(msgspec.Struct, frozen=True):
    """The exception a ticket ends with, told apart from a result."""

    error: Exception


class _Uncertain(Exception):
    """The connection was lost during COMMIT: the group may or may not be stored."""


class Writer:
    """See the module. `submit` may be called from any thread."""

    def __init__(self, engine: sa.Engine, observe: Observer | None) -> None:
        self._trouble: str | None = None
        self._asked: float | None = None
        self._engine = engine
        self._observe = observe
        self._connection: sa.Connection | None = None
        self._queue: deque[Ticket] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._typical = 0.0
        self._crowded = False
        self._thread = threading.Thread(target=self._run, name="ratchet-writer", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str | None:
        """What is wrong while the database is known to be out of use, or has been silent for longer than `PATIENCE`."""
        silent = 0.0 if (asked := self._asked) is None else time.monotonic() - asked
        if self._trouble is None and silent > PATIENCE:
            return f"the database cannot be used: it has not answered for {silent:.0f} s"
        return self._trouble

    @property
    def queued(self) -> int:
        """Tickets not yet taken into a group."""
        return len(self._queue)

    def submit(self, ticket: Ticket) -> None:
        """Hand in a ticket. Raises: Unavailable when closing."""
        ticket.since = time.monotonic()
        with self._wake:
            if self._closing:
                raise Unavailable("the server is shutting down; nothing was recorded")
            self._queue.append(ticket)
            self._wake.notify()

    def close(self) -> None:
        """Commit what is queued, then stop the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while (group := self._gather()) is not None:
            self._asked = time.monotonic()
            if group:
                _settle(zip(group, self._commit(group), strict=True))
            else:
                self._probe()
            self._asked = None
        self._disconnect()

    def _gather(self) -> list[Ticket] | None:
        """The next group; empty when nothing came for a while, None when closing and nothing is left."""
        with self._wake:
            if not self._queue and not self._closing:
                self._wake.wait(_PROBE)
            if not self._queue:
                return None if self._closing else []
        self._linger()
        # While the database is down all must be told in one go.
        size = min(len(self._queue), LARGEST) if self._trouble is None else len(self._queue)
        group = [self._queue.popleft() for _ in range(size)]
        self._crowded = size > 1
        return group

    def _linger(self) -> None:
        """Wait for company, if the last group had any and a commit is slow enough for it to be worth the while."""
        pause = min(_LONGEST_LINGER, self._typical / 4)
        if self._crowded and pause >= _LEAST_LINGER and len(self._queue) < LARGEST:
            time.sleep(pause)

    def _commit(self, group: Sequence[Ticket]) -> list[Any]:
        """What to tell each ticket: a result or an exception. Tries again while the database is down, within bounds."""
        answers: dict[int, Any] = {}
        pause = 0.02
        while True:
            open_ = [i for i in range(len(group)) if i not in answers]
            try:
                answers.update(zip(open_, self._attempt([group[i].work for i in open_]), strict=True))
                return [answers[i] for i in range(len(group))]
            except Exception as error:  # noqa: BLE001 -- whatever it is, those who wait must be told
                failure = translated(error.__cause__ if isinstance(error, _Uncertain) else error)  # type: ignore[arg-type]  # an _Uncertain has a cause
                self._lost(failure)
                if isinstance(error, _Uncertain):  # a job is not idempotent: better told than done twice
                    answers.update({i: _Raised(failure) for i in open_ if isinstance(group[i].work, Job)})
                if not isinstance(failure, Unavailable) or time.monotonic() - group[0].since > self._patience:
                    return [answers.get(i, _Raised(failure)) for i in range(len(group))]
            time.sleep(pause)
            pause = min(2 * pause, _PROBE)

    @property
    def _patience(self) -> float:
        return 0.0 if self._closing else PATIENCE

    def _attempt(self, works: Sequence[Entry | Job]) -> list[Any]:
        """One transaction for all. Raises: when it failed as a whole; then nothing is stored, unless _Uncertain."""
        if not works:
            return []
        started = time.perf_counter()
        conn = self._connect()
        answers = _write(conn, works)
        try:
            conn.commit()
        except Exception as error:
            raise _Uncertain from error
        self._committed(len(works), time.perf_counter() - started)
        return answers

    def _committed(self, rows: int, seconds: float) -> None:
        self._trouble = None
        self._typical += (seconds - self._typical) / 16
        if self._observe is not None:
            with suppress(Exception):  # it is stored: whatever becomes of the watching, it must not be sent again
                self._observe(rows, seconds)

    def _probe(self) -> None:
        """Look whether the database is there; once it was lost, whether it takes a write."""
        statement = _READABLE if self._trouble is None else _WRITABLE
        try:
            conn = self._connect()
            conn.exec_driver_sql(statement)
            conn.commit()
            self._trouble = None
        except Exception as error:  # noqa: BLE001 -- told to those who come with rows
            self._lost(translated(error))

    def _connect(self) -> sa.Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _lost(self, failure: Exception) -> None:
        self._trouble = str(failure)
        if self._connection is not None:
            with suppress(Exception):
                self._connection.invalidate()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(Exception):
                self._connection.close()
            self._connection = None


_READABLE = "SELECT 1"
_WRITABLE = "INSERT INTO meta (key, value) VALUES ('probe', '') ON CONFLICT (key) DO UPDATE SET value = excluded.value"


def _write(conn: sa.Connection, works: Sequence[Entry | Job]) -> list[Any]:
    """Entries in few statements, then every job in a savepoint of its own."""
    entries = [work for work in works if isinstance(work, Entry)]
    try:
        stored: list[Any] = list(append(conn, entries)) if entries else []
    except Exception as error:
        if outage(error):
            raise
        conn.rollback()
        stored = _one_by_one(conn, entries)
    following = iter(stored)
    return [_do(conn, work) if isinstance(work, Job) else next(following) for work in works]


def _one_by_one(conn: sa.Connection, entries: Sequence[Entry]) -> list[Any]:
    """Store what can be stored: halve until each refused entry stands alone."""
    try:
        with conn.begin_nested():
            return list(append(conn, entries))
    except Exception as error:
        if outage(error):
            raise
        if len(entries) == 1:
            return [_Raised(translated(error))]
    half = len(entries) // 2
    return _one_by_one(conn, entries[:half]) + _one_by_one(conn, entries[half:])


def _do(conn: sa.Connection, job: Job) -> Any:
    try:
        with conn.begin_nested():
            return job.function(conn, *job.args, **job.kwargs)
    except Exception as error:
        if outage(error):
            raise
        return _Raised(translated(error))


def _settle(answered: Iterable[tuple[Ticket, Any]]) -> None:
    """Tell everybody, with one call into each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for ticket, answer in answered:
        by_loop.setdefault(ticket.future.get_loop(), []).append((ticket.future, answer))
    for loop, answers in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_tell, answers)


def _tell(answers: Iterable[tuple["asyncio.Future[Any]", Any]]) -> None:
    for future, answer in answers:
        if future.done():
            continue
        if isinstance(answer, _Raised):
            future.set_exception(answer.error)
        else:
            future.set_result(answer)
