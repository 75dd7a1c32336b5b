"""The journal: group commit. Facts are acknowledged once they are on stable storage, many by one commit.

Whoever will have something to store reserves a place first, before any money is spent: a full journal says so (`Busy`)
and a database that is down says so (`Unavailable`) at that moment. What then arrives is handed to the one writer
thread (`server/store/writer.py`), which commits whatever gathered while it was committing the group before.
"""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

import sqlalchemy as sa

from experiments.errors import Busy, Unavailable
from experiments.facts import Content, Outcome, OutcomeStatus, Prediction, Remark
from server.store.appending import Entry, predicted
from server.store.idempotency import Completion
from server.store.writer import Job, Observer, Ticket, Writer

P = ParamSpec("P")
T = TypeVar("T")

ROOM = 10_000
"""Places: requests under way plus entries waiting to be committed."""


class Slot:
    """Places reserved in the journal, as a context manager: those not used are given back at the end.

    >>> with journal.reserve() as slot:            # doctest: +SKIP
    ...     answer = await program(...)
    ...     await slot.append(prediction, content)
    """

    def __init__(self, journal: "Journal", places: int) -> None:
        self._journal = journal
        self._places = places

    async def append(
        self, prediction: Prediction, content: Content | None = None, completion: Completion | None = None
    ) -> None:
        """Store a prediction, its content and the answer to its idempotency key, all or nothing; returns when durable.

        The same prediction id again changes nothing. Raises: RowRefused, Unavailable.
        """
        await self._submit(predicted(prediction, content, completion))

    async def record(self, outcomes: Sequence[Outcome], remarks: Sequence[Remark] = ()) -> list[OutcomeStatus]:
        """Store what one reported item says, all or nothing; returns when durable.

        The statuses are those of `outcomes` (accepted, duplicate, conflict or late), then those of `remarks` (accepted
        or duplicate). After an outage an outcome may be told `duplicate` although it is this very call that stored it.
        Raises: RowRefused, Unavailable.
        """
        return await self._submit(Entry(outcomes=tuple(outcomes), remarks=tuple(remarks)))

    async def _submit(self, entry: Entry) -> list[OutcomeStatus]:
        if not self._places:
            raise RuntimeError("every place of this slot is used already")
        self._places -= 1
        return await self._journal._submit(entry)  # noqa: SLF001 -- a slot is a part of its journal

    def release(self) -> None:
        """Give back the places that were not used."""
        self._journal._free(self._places)  # noqa: SLF001 -- a slot is a part of its journal
        self._places = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


class Journal:
    """Durable writing for one event loop, through one connection of `engine`.

    `observe(rows, seconds)` is called in the writer's thread after every commit.
    """

    def __init__(self, engine: sa.Engine, *, room: int = ROOM, observe: Observer | None = None) -> None:
        self._room = room
        self._taken = 0
        self._writer = Writer(engine, observe)

    def reserve(self, places: int = 1) -> Slot:
        """Room for so many entries. Raises: Busy when there is none; Unavailable while the database is down."""
        self._require_health()
        if self._taken + places > self._room:
            raise Busy("the journal is full: more is being written than the disk can take", retry_after=1.0)
        self._taken += places
        return Slot(self, places)

    async def record(self, outcomes: Sequence[Outcome], remarks: Sequence[Remark] = ()) -> list[OutcomeStatus]:
        """Reserve one place and record one item; see `Slot.record`. Raises: Busy, RowRefused, Unavailable."""
        with self.reserve() as slot:
            return await slot.record(outcomes, remarks)

    async def run(self, function: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function on the writing connection, in its own savepoint: what it raises undoes its own writes only.

        It may be run again after a lost connection, so it must do nothing but SQL. Raises: what it raises, Unavailable.
        """
        self._require_health()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._writer.submit(Ticket(Job(function, args, kwargs), future))
        return await future

    def _require_health(self) -> None:
        if trouble := self._writer.trouble:
            raise Unavailable(f"{trouble}; nothing was recorded")

    @property
    def trouble(self) -> str | None:
        """What is wrong with the database; None while the last thing heard of it was good."""
        return self._writer.trouble

    @property
    def queued(self) -> int:
        """Entries and jobs that wait for their commit."""
        return self._writer.queued

    def close(self) -> None:
        """Commit what is queued, then stop. Blocks; call it in a thread while the loop still runs."""
        self._writer.close()

    async def _submit(self, entry: Entry) -> list[OutcomeStatus]:
        future: asyncio.Future[list[OutcomeStatus]] = asyncio.get_running_loop().create_future()
        try:
            self._writer.submit(Ticket(entry, future))
            return await future
        finally:
            self._free(1)

    def _free(self, places: int) -> None:
        self._taken -= places
