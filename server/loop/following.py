"""A child at work: what it says is told to the database, and it ends when its run was cancelled or its time is up."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence

import msgspec

from experiments.errors import Unavailable
from experiments.quantities import SECOND
from learning.compile_runs import Job
from server.loop.children import Child
from server.loop.directories import Directory
from server.ratchet import Ratchet
from server.store.compiles import Claim, NumberedEvent, compile_run, renew_run

_FOLLOW_EVERY = 0.5
"""Seconds between looks at what the child says: two writes a second at most."""
_PATIENCE = 10.0
"""Seconds a child gets at each step from being asked to end to being killed."""
_GRACE = 60.0
"""Seconds beyond its budget of time after which a child that does not keep it is ended."""


class Departure(msgspec.Struct, frozen=True):
    """How a child went: its exit code, and whether it had to be ended because its time was up."""

    exit_code: int | None
    overdue: bool


async def followed(directory: Directory, follower: "Follower", job: Job) -> Departure:
    """Have a child do the job, and tell of it as it goes. It does not outlive this call.

    Raises: Stale when the run is in other hands; Unavailable when it may be; OSError.
    """
    lms = (job.definition.lm_settings, job.champion.lm, job.reflection_lm)
    keys = {lm.api_key_env for lm in lms if lm is not None and lm.api_key_env is not None}
    child = await asyncio.to_thread(Child.start, directory.path, os.environ, keys)
    leash = _Leash(directory, child, time.monotonic() + job.budget.time / SECOND + _GRACE)
    try:
        while (exit_code := child.exit_code) is None:
            leash.pull(cancelled=await follower.tell(), now=time.monotonic())
            await asyncio.sleep(_FOLLOW_EVERY)
        return Departure(exit_code, leash.overdue)
    finally:
        await asyncio.to_thread(child.end)


class Follower:
    """Tells the database what a child says, and hears from it whether the run was cancelled.

    While the database is out of reach the child goes on for as long as the lease is sure to hold; after that another
    runner may have the run, and both would pay. Alone on its data, there is no other.
    """

    def __init__(self, ratchet: Ratchet, claim: Claim, directory: Directory) -> None:
        self._ratchet = ratchet
        self._claim = claim
        self._directory = directory
        self._lease = ratchet.settings.lease
        self._pending: list[NumberedEvent] = []
        self._renew_at = 0.0
        self._held_until = time.monotonic() + self._lease / SECOND
        self._cancelled = False

    async def tell(self) -> bool:
        """Store what is new, or keep the lease; whether the run was cancelled.

        Raises: Stale when overtaken; Unavailable when that cannot be known any more.
        """
        self._pending += await asyncio.to_thread(self._directory.events)
        store, now, seconds = self._ratchet.store, time.monotonic(), self._lease / SECOND
        try:
            if self._pending or now >= self._renew_at:
                run = await store.write(renew_run, self._claim, self._lease, tuple(self._pending))
                self._pending, self._renew_at, self._held_until = [], now + seconds / 3, now + seconds
            else:
                run = await store.read(compile_run, self._claim.run.compile_id)
        except Unavailable:
            if now >= self._held_until and not self._ratchet.settings.embedded:
                raise
            return self._cancelled
        self._cancelled = run.cancel_requested
        return self._cancelled


class _Leash:
    """Ends a child whose run was cancelled, or whose time is up: by a word, then by SIGTERM, then by SIGKILL."""

    def __init__(self, directory: Directory, child: Child, deadline: float) -> None:
        self.overdue = False
        self._directory = directory
        self._child = child
        self._deadline = deadline
        self._steps: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGKILL)
        self._next: float | None = None

    def pull(self, *, cancelled: bool, now: float) -> None:
        """Take the next step if it is time for it; times are monotonic seconds."""
        if self._next is None:
            if cancelled or now >= self._deadline:
                self.overdue = not cancelled
                self._directory.ask_to_end()
                self._next = now + _PATIENCE
        elif now >= self._next and self._steps:
            self._child.signal(self._steps[0])
            self._steps, self._next = self._steps[1:], now + _PATIENCE
