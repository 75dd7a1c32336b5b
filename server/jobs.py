"""The clock. APScheduler says when, a lease says who, a row with a unique key that nobody has done it before."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from experiments.errors import RatchetError
from experiments.quantities import SECOND
from server.leading import Leadership, standing
from server.loop.cycling import learn
from server.loop.drifting import drift
from server.loop.retaining import retain
from server.ratchet import Ratchet
from server.showing import show, survey
from server.store.idempotency import purge_keys
from server.store.upkeep import claim_tick, finish_tick
from server.trials.ticking import tick
from server.trials.watching import watch

SURVEY_EVERY = 60 * SECOND
SWEEP_EVERY = 600 * SECOND
RETAIN_EVERY = 3600 * SECOND


class Job(msgspec.Struct, frozen=True):
    """Something the leader does every so many µs."""

    name: str
    run: Callable[[Ratchet], Awaitable[object]]
    every: int


def jobs(ratchet: Ratchet) -> list[Job]:
    """Everything that happens by itself."""
    return [
        Job("decide", tick, ratchet.settings.tick),
        Job("watch", watch, ratchet.settings.tick),
        Job("drift", drift, ratchet.settings.tick),
        Job("learn", learn, ratchet.settings.tick),
        Job("show", show, ratchet.settings.tick),
        Job("survey", survey, max(ratchet.settings.tick, SURVEY_EVERY)),
        Job("sweep", _sweep, SWEEP_EVERY),
        Job("retain", retain, RETAIN_EVERY),
    ]


@asynccontextmanager
async def ticking(ratchet: Ratchet) -> AsyncIterator[None]:
    """Stand for leader, and do every job when it is due while leading, until the end of the block.

    What was missed while the machine slept is made up for once, not one by one.
    """
    # It warns of every period a longer job has skipped; what an operator needs is the time of the last success.
    logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)
    scheduler = AsyncIOScheduler(
        timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": 3600}
    )
    async with standing(ratchet) as leadership:
        for job in jobs(ratchet):
            every = IntervalTrigger(seconds=job.every / SECOND)
            scheduler.add_job(run_due, every, (leadership, job), id=job.name, name=job.name)
        scheduler.start()
        try:
            yield
        finally:
            scheduler.shutdown(wait=False)


async def run_due(leadership: Leadership, job: Job) -> bool:
    """Run the job for the present period, if this process leads and nobody did; returns whether it was done.

    A failing job is logged and tried again next period: the clock never stops.
    """
    ratchet = leadership.acting
    if ratchet is None:
        return False
    due_at = ratchet.now() // job.every * job.every
    try:
        if not await ratchet.store.write(claim_tick, job.name, due_at):
            return False
        await job.run(ratchet)
        now = ratchet.now()
        await ratchet.store.write(finish_tick, job.name, due_at, now)
    except RatchetError as error:
        ratchet.log.warning("job_failed", job=job.name, detail=error.detail)
        return False
    except asyncio.CancelledError:  # the process ends; what was done so far is whole, and the next one goes on
        return False
    except Exception:
        ratchet.log.exception("job_crashed", job=job.name)
        return False
    ratchet.metrics.scheduler_success.labels(job.name).set(now / SECOND)
    return True


async def _sweep(ratchet: Ratchet) -> None:
    """Forget what is no longer needed."""
    await ratchet.store.write(purge_keys, ratchet.now())
