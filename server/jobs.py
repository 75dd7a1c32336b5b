"""The clock. APScheduler says when; a row with a unique key says who: of all processes, one runs each due tick."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from experiments.errors import RatchetError
from experiments.quantities import SECOND
from server.ratchet import Ratchet
from server.store.idempotency import purge_keys
from server.store.upkeep import claim_tick, finish_tick
from server.trials.ticking import tick
from server.trials.watching import watch

SWEEP_EVERY = 600 * SECOND

Job = Callable[[Ratchet], Awaitable[object]]


def start(ratchet: Ratchet) -> AsyncIOScheduler:
    """Begin to tick. Jobs missed while the machine slept are made up for once, not one by one."""
    scheduler = AsyncIOScheduler(
        timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": 3600}
    )
    jobs: dict[str, tuple[Job, int]] = {
        "decide": (tick, ratchet.settings.tick),
        "watch": (watch, ratchet.settings.tick),
        "sweep": (_sweep, SWEEP_EVERY),
    }
    for name, (job, every) in jobs.items():
        scheduler.add_job(
            partial(run_due, ratchet, name, job, every), IntervalTrigger(seconds=every / SECOND), id=name, name=name
        )
    scheduler.start()
    return scheduler


async def run_due(ratchet: Ratchet, name: str, job: Job, every: int) -> bool:
    """Run the job for the present period unless another process has; returns whether this one did.

    A failing job is logged and tried again next period: the clock never stops.
    """
    due_at = ratchet.now() // every * every
    try:
        mine = await ratchet.store.write(claim_tick, name, due_at)
        ratchet.metrics.leader.set(mine)
        if not mine:
            return False
        await job(ratchet)
        now = ratchet.now()
        await ratchet.store.write(finish_tick, name, due_at, now)
    except RatchetError as error:
        ratchet.log.warning("job_failed", job=name, detail=error.detail)
        return False
    except asyncio.CancelledError:  # the process ends; what was done so far is whole, and the next one goes on
        return False
    except Exception:
        ratchet.log.exception("job_crashed", job=name)
        return False
    ratchet.metrics.scheduler_success.labels(name).set(now / SECOND)
    return True


async def _sweep(ratchet: Ratchet) -> None:
    """Forget what is no longer needed."""
    await ratchet.store.write(purge_keys, ratchet.now())
