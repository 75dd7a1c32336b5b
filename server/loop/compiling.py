"""The runner: takes compile runs one at a time, has each carried out by a child process, and records how it ended.

A run survives whatever happens to those who work on it. Its lease runs out when its server dies, and the next runner
goes on from its run directory; a child that dies is started again, a few times. All that is written names the fence of
the claim, so that a runner which was overtaken stops at its next word.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from msgspec.structs import replace

from experiments.errors import Conflict, Invalid, NotFound, RatchetError, Stale, Unavailable
from experiments.quantities import SECOND, dollars
from learning.compile_runs import CompileRun, Job, Result, RunState
from learning.gate import judge
from server.clock import new_id
from server.loop.candidates import admit, made
from server.loop.directories import Directory, directories, sweep
from server.loop.following import Departure, Follower, followed
from server.loop.requesting import NotLoaded, job_of, loaded
from server.ratchet import Ratchet
from server.store import Connection
from server.store.compiles import (
    Claim,
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
from server.store.upkeep import setting
from server.trials.ticking import FROZEN

ATTEMPTS = 3
"""How many attempts at one run may fail."""
MOST_BEGUN = 30
"""How often a run is begun at most, for whatever reason it came to no end: it may be the reason itself."""
_LOOK_EVERY = 1.0
"""Seconds between looks for a run to work on."""


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
            if await ratchet.store.read(_free):
                claim = await ratchet.store.write(_claim, holder, ratchet.settings.lease, ratchet.now())
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
            await _sweep(ratchet)


def _free(conn: Connection) -> bool:
    return free_run(conn, automatic=not setting(conn, FROZEN))


def _claim(conn: Connection, holder: str, lease: int, now: int) -> Claim | None:
    """A run to work on. While automatic acts are frozen nothing is begun but what a person asked for."""
    return claim_run(conn, holder, lease, now, automatic=not setting(conn, FROZEN))


async def _sweep(ratchet: Ratchet) -> None:
    """Remove what is left of runs that have ended: they failed here, or went on elsewhere, or a server died."""
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
        spent = dollars(ended.spent)
        log.info("compile_ended", state=ended.state, spent_usd=spent, variant=ended.variant, error=ended.error)
    except asyncio.CancelledError:  # this process ends, which is no fault of the run's
        await _let_go(ratchet, claim)
        raise
    except Stale as overtaken:
        log.warning("compile_overtaken", detail=overtaken.detail)
    except Unavailable as outage:  # the lease runs out by itself, unless the database is back already
        log.warning("compile_interrupted", detail=outage.detail)
        await _let_go(ratchet, claim)
    except (RatchetError, OSError) as error:
        log.warning("compile_attempt_failed", detail=str(error))
        await _failed(ratchet, claim, str(error))
    except Exception as error:
        log.exception("compile_attempt_crashed")
        await _failed(ratchet, claim, f"{type(error).__name__}: {error}")


async def _failed(ratchet: Ratchet, claim: Claim, why: str) -> None:
    """Give the run back for another attempt a little later, or end it if this was the last."""
    failures = claim.run.failures + 1
    if failures < ATTEMPTS:
        await _let_go(ratchet, claim, after=failures * SECOND, failed=True)
        return
    try:
        run = await ratchet.store.read(compile_run, claim.run.compile_id)
        await _finished(ratchet, claim, run, "failed", f"{ATTEMPTS} attempts failed; the last: {why}")
    except RatchetError as error:
        ratchet.log.warning("compile_not_ended", compile_id=claim.run.compile_id, detail=error.detail)


async def _let_go(ratchet: Ratchet, claim: Claim, *, after: int = 0, failed: bool = False) -> None:
    try:
        await ratchet.store.write(release_run, claim, after=after, failed=failed)
    except RatchetError as error:  # then its lease runs out by itself
        ratchet.log.warning("compile_not_released", compile_id=claim.run.compile_id, detail=error.detail)


async def _attempt(ratchet: Ratchet, claim: Claim) -> CompileRun:
    """Raises: Stale, Unavailable; RatchetError or OSError when another attempt may succeed."""
    if claim.run.cancel_requested:
        return await _finished(ratchet, claim, claim.run, "cancelled")
    if claim.run.attempt > MOST_BEGUN:
        why = f"it was begun {MOST_BEGUN} times and came to no end: whoever worked on it died each time"
        return await _finished(ratchet, claim, claim.run, "failed", why)
    directory = Directory(Path(ratchet.settings.data), claim.run.compile_id)
    try:
        claim, job = await _prepared(ratchet, claim, directory)
    except (Stale, NotLoaded):
        raise
    except (Conflict, Invalid, NotFound) as changed:  # since it was asked for
        return await _finished(ratchet, claim, claim.run, "failed", changed.detail)
    follower, gone = Follower(ratchet, claim, directory), Departure(exit_code=0, overdue=False)
    result = await asyncio.to_thread(directory.result)
    if result is None or result.outcome == "cancelled":
        await asyncio.to_thread(directory.clear)
        gone = await followed(directory, follower, job)
        result = await asyncio.to_thread(directory.result)
    # Else the child came to its end, and the server did before it could tell.
    cancelled = await follower.tell()
    if gone.overdue and (result is None or result.outcome == "cancelled") and not cancelled:
        present = await ratchet.store.read(compile_run, claim.run.compile_id)
        why = f"it did not end by itself after the {job.budget.time / 60 / SECOND:g} minutes of its `max_duration`"
        return await _finished(ratchet, claim, present, "failed", why)
    if result is None and not cancelled:
        raise ChildDied(f"the compiling process ended with {gone.exit_code}: {directory.last_words() or 'no word'}")
    return await _settled(ratchet, claim, job, result)


class ChildDied(RatchetError):
    """The compiling process ended without a result."""


async def _prepared(ratchet: Ratchet, claim: Claim, directory: Directory) -> tuple[Claim, Job]:
    """The job, as begun before or made now from what is known now; the claim then tells of its data."""
    stored = await ratchet.store.read(last_event_number, claim.run.compile_id)
    job = await asyncio.to_thread(directory.resumable, stored)
    if job is not None:
        return claim, job
    async with _holding(ratchet, claim):
        job, run = await job_of(ratchet, claim.run)
        await asyncio.to_thread(directory.prepare, job, stored)
    run = await ratchet.store.write(renew_run, claim, ratchet.settings.lease, (), run)
    return replace(claim, run=run), job


@asynccontextmanager
async def _holding(ratchet: Ratchet, claim: Claim) -> AsyncIterator[None]:
    """Keep the lease to the end of the block: to read all feedback may take longer than it lasts."""

    async def renewed() -> None:
        while True:
            await asyncio.sleep(ratchet.settings.lease / SECOND / 3)
            with suppress(RatchetError):  # the next write of the run tells what became of it
                await ratchet.store.write(renew_run, claim, ratchet.settings.lease)

    task = asyncio.create_task(renewed())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


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
        program = loaded(ratchet, run.program)
        candidate = await asyncio.to_thread(made, program, job, run, result)
    except (Invalid, NotFound) as error:
        return await _finished(ratchet, claim, run, "failed", f"the candidate cannot be kept: {error.detail}")
    return await ratchet.store.write(admit, claim, run, candidate, ratchet.now())


async def _finished(
    ratchet: Ratchet, claim: Claim, run: CompileRun, state: RunState, error: str | None = None
) -> CompileRun:
    ended = replace(run, state=state, error=error, finished_at=ratchet.now())
    return await ratchet.store.write(finish_run, claim, ended)
