"""The runner: takes compile runs one at a time, has each carried out by a child process, and records how it ended.

A run survives whatever happens to those who work on it. Its lease runs out when its server dies, and the next runner
goes on from its run directory; a child that dies is started again, a few times. All that is written names the fence of
the claim, so that a runner which was overtaken stops at its next word.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from experiments.errors import Conflict, Invalid, NotFound, RatchetError, Stale, Unavailable
from experiments.quantities import SECOND
from learning.compile_runs import CompileRun, Job, Result, RunState
from learning.gate import judge
from server.clock import new_id
from server.loop.candidates import admit, made
from server.loop.children import Child
from server.loop.directories import Directory, directories, sweep
from server.loop.requesting import job_of
from server.ratchet import Ratchet
from server.store.compiles import (
    Claim,
    NumberedEvent,
    claim_run,
    compile_run,
    ended_runs,
    finish_run,
    free_run,
    last_event_number,
    release_run,
    release_runs,
    renew_run,
)

ATTEMPTS = 3
"""How often a child is started for one run, at most."""
_LOOK_EVERY = 1.0
"""Seconds between looks for a run to work on."""
_FOLLOW_EVERY = 0.5
"""Seconds between looks at what the child says: two writes a second at most."""
_PATIENCE = 10.0
"""Seconds a child gets at each step from being asked to end to being killed."""
_GRACE = 60.0
"""Seconds beyond its budget of time after which a child that does not keep it is ended."""


@asynccontextmanager
async def compiling(ratchet: Ratchet) -> AsyncIterator[None]:
    """Work off compile runs until the end of the block. The child under way is then stopped; its run goes on later.

    A runner that is silent for longer than the settings' lease loses its run to another.
    """
    if ratchet.settings.embedded:
        await ratchet.store.write(release_runs)
    task = asyncio.create_task(_work(ratchet))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _work(ratchet: Ratchet) -> None:
    holder, lost = new_id(), False
    await _sweep(ratchet)
    while True:
        try:
            claim = None
            if await ratchet.store.read(free_run):
                claim = await ratchet.store.write(claim_run, holder, ratchet.settings.lease, ratchet.now())
            lost = False
        except Unavailable:  # told once by whoever follows the database
            claim = None
        except Exception:
            claim = None
            if not lost:
                ratchet.log.exception("compiles_not_looked_at")
            lost = True
        if claim is None:
            await asyncio.sleep(_LOOK_EVERY)
        else:
            await carry_out(ratchet, claim)


async def _sweep(ratchet: Ratchet) -> None:
    """Remove the run directories that a dead server left behind."""
    data = Path(ratchet.settings.data)
    if not directories(data).is_dir():
        return
    try:
        ended = await ratchet.store.read(ended_runs, [path.name for path in directories(data).iterdir()])
        await asyncio.to_thread(sweep, data, ended.__contains__)
    except (RatchetError, OSError) as error:
        ratchet.log.warning("run_directories_not_swept", detail=str(error))


async def carry_out(ratchet: Ratchet, claim: Claim) -> None:
    """One attempt at a run, to whatever end; nothing is raised but the end of this process."""
    compile_id, program = claim.run.compile_id, claim.run.program
    log = ratchet.log.bind(compile_id=compile_id, program=program, attempt=claim.run.attempt)
    log.info("compile_claimed", optimizer=claim.run.optimizer, reason=claim.run.reason)
    try:
        ended = await _attempt(ratchet, claim)
        await asyncio.to_thread(Directory(Path(ratchet.settings.data), compile_id).remove)
        log.info("compile_ended", state=ended.state, spent=ended.spent, variant=ended.variant, error=ended.error)
    except asyncio.CancelledError:  # this process ends, which is no fault of the run's
        await _let_go(ratchet, claim, uncounted=True)
        raise
    except Stale as overtaken:
        log.warning("compile_overtaken", detail=overtaken.detail)
    except Unavailable as outage:  # the lease runs out by itself
        log.warning("compile_interrupted", detail=outage.detail)
    except (RatchetError, OSError) as error:
        log.warning("compile_attempt_failed", detail=str(error))
        await _failed(ratchet, claim, str(error))
    except Exception as error:
        log.exception("compile_attempt_crashed")
        await _failed(ratchet, claim, f"{type(error).__name__}: {error}")


async def _failed(ratchet: Ratchet, claim: Claim, why: str) -> None:
    """Give the run back for another attempt a little later, or end it if this was the last."""
    if claim.run.attempt < ATTEMPTS:
        await _let_go(ratchet, claim, after=claim.run.attempt * SECOND)
        return
    try:
        run = await ratchet.store.read(compile_run, claim.run.compile_id)
        await _finished(ratchet, claim, run, "failed", f"{ATTEMPTS} attempts failed; the last: {why}")
    except RatchetError as error:
        ratchet.log.warning("compile_not_ended", compile_id=claim.run.compile_id, detail=error.detail)


async def _let_go(ratchet: Ratchet, claim: Claim, *, after: int = 0, uncounted: bool = False) -> None:
    try:
        await ratchet.store.write(release_run, claim, after=after, uncounted=uncounted)
    except RatchetError as error:  # then its lease runs out by itself
        ratchet.log.warning("compile_not_released", compile_id=claim.run.compile_id, detail=error.detail)


async def _attempt(ratchet: Ratchet, claim: Claim) -> CompileRun:
    """Raises: Stale, Unavailable; RatchetError or OSError when another attempt may succeed."""
    if claim.run.cancel_requested:
        return await _finished(ratchet, claim, claim.run, "cancelled")
    directory = Directory(Path(ratchet.settings.data), claim.run.compile_id)
    try:
        claim, job = await _prepared(ratchet, claim, directory)
    except Stale:
        raise
    except (Conflict, Invalid, NotFound) as changed:  # since it was asked for
        return await _finished(ratchet, claim, claim.run, "failed", changed.detail)
    follower = _Follower(ratchet, claim, directory)
    result = await asyncio.to_thread(directory.result)
    if result is None or result.outcome == "cancelled":
        await asyncio.to_thread(directory.clear)
        exit_code = await _followed(directory, follower, job)
        result = await asyncio.to_thread(directory.result)
    else:  # the child came to its end, and the server did before it could tell
        exit_code = 0
    cancelled = await follower.tell()
    if result is None and not cancelled:
        raise ChildDied(f"the compiling process ended with {exit_code}: {directory.last_words() or 'no word'}")
    return await _settled(ratchet, claim, job, result)


class ChildDied(RatchetError):
    """The compiling process ended without a result."""


async def _prepared(ratchet: Ratchet, claim: Claim, directory: Directory) -> tuple[Claim, Job]:
    """The job, as begun before or made now from what is known now; the claim then tells of its data."""
    stored = await ratchet.store.read(last_event_number, claim.run.compile_id)
    job = await asyncio.to_thread(directory.resumable, stored)
    if job is not None:
        return claim, job
    job, run = await job_of(ratchet, claim.run)
    await asyncio.to_thread(directory.prepare, job, stored)
    run = await ratchet.store.write(renew_run, claim, ratchet.settings.lease, (), run)
    return replace(claim, run=run), job


async def _followed(directory: Directory, follower: "_Follower", job: Job) -> int | None:
    """Have the child do it, and tell of it as it goes; returns its exit code. It does not outlive this call."""
    child = await asyncio.to_thread(Child.start, directory.path, os.environ)
    leash = _Leash(directory, child, time.monotonic() + job.budget.time / SECOND + _GRACE)
    try:
        while (exit_code := child.exit_code) is None:
            leash.pull(cancelled=await follower.tell(), now=time.monotonic())
            await asyncio.sleep(_FOLLOW_EVERY)
        return exit_code
    finally:
        await asyncio.to_thread(child.end)


class _Follower:
    """Tells the database what a child says, and hears from it whether the run was cancelled."""

    def __init__(self, ratchet: Ratchet, claim: Claim, directory: Directory) -> None:
        self._ratchet = ratchet
        self._claim = claim
        self._directory = directory
        self._lease = ratchet.settings.lease
        self._pending: list[NumberedEvent] = []
        self._renew_at = 0.0
        self._cancelled = False

    async def tell(self) -> bool:
        """Store what is new, or keep the lease; whether the run was cancelled. Raises: Stale when overtaken."""
        self._pending += await asyncio.to_thread(self._directory.events)
        store, now = self._ratchet.store, time.monotonic()
        try:
            if self._pending or now >= self._renew_at:
                run = await store.write(renew_run, self._claim, self._lease, tuple(self._pending))
                self._pending, self._renew_at = [], now + self._lease / SECOND / 3
            else:
                run = await store.read(compile_run, self._claim.run.compile_id)
        except Unavailable:  # the child goes on; what it said is told once the database is back
            return self._cancelled
        self._cancelled = run.cancel_requested
        return self._cancelled


class _Leash:
    """Ends a child whose run was cancelled, or whose time is up: by a word, then by SIGTERM, then by SIGKILL."""

    def __init__(self, directory: Directory, child: Child, deadline: float) -> None:
        self._directory = directory
        self._child = child
        self._deadline = deadline
        self._steps: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGKILL)
        self._next: float | None = None

    def pull(self, *, cancelled: bool, now: float) -> None:
        """Take the next step if it is time for it; times are monotonic seconds."""
        if self._next is None:
            if cancelled or now >= self._deadline:
                self._directory.ask_to_end()
                self._next = now + _PATIENCE
        elif now >= self._next and self._steps:
            self._child.signal(self._steps[0])
            self._steps, self._next = self._steps[1:], now + _PATIENCE


async def _settled(ratchet: Ratchet, claim: Claim, job: Job, result: Result | None) -> CompileRun:
    """What follows from the result; there may be none of a run that was cancelled, however far it had come.

    Raises: ChildDied when it says nothing about the run.
    """
    present = await ratchet.store.read(compile_run, claim.run.compile_id)
    if present.cancel_requested or result is None:
        spent = present.spent if result is None else max(present.spent, result.spent)
        return await _finished(ratchet, claim, replace(present, spent=spent), "cancelled")
    run = replace(
        present,
        spent=max(present.spent, result.spent),
        progress=replace(present.progress, metric_calls=max(present.progress.metric_calls, result.metric_calls)),
    )
    match result.outcome:
        case "candidate":
            return await _judged(ratchet, claim, run, job, result)
        case "no-candidate":
            return await _finished(ratchet, claim, run, "rejected", result.reason)
        case "cancelled":
            raise ChildDied(f"somebody told the compiling process to end: {result.reason}")
        case _:
            return await _finished(ratchet, claim, run, "failed", result.reason)


async def _judged(ratchet: Ratchet, claim: Claim, run: CompileRun, job: Job, result: Result) -> CompileRun:
    verdict = judge(
        result.holdout,
        champion=job.champion.state,
        candidate=result.state or job.champion.state,
        options=job.definition.learning.gate,
        copied=result.copied,
    )
    run = replace(run, gate=verdict, baseline_score=verdict.baseline_score, candidate_score=verdict.candidate_score)
    if not verdict.admitted:
        return await _finished(ratchet, claim, run, "rejected")
    try:
        candidate = await asyncio.to_thread(made, ratchet.traffic.program(run.program).definition, job, run, result)
    except (Invalid, NotFound) as error:
        return await _finished(ratchet, claim, run, "failed", f"the candidate cannot be kept: {error.detail}")
    return await ratchet.store.write(admit, claim, run, candidate, ratchet.now())


async def _finished(
    ratchet: Ratchet, claim: Claim, run: CompileRun, state: RunState, error: str | None = None
) -> CompileRun:
    ended = replace(run, state=state, error=error, finished_at=ratchet.now())
    return await ratchet.store.write(finish_run, claim, ended)
