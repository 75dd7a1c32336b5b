"""The tick of the holdbacks: fold what has matured since each promotion, and take back those that proved harmful.

The same folding as an experiment's, on evidence that began with the promotion, and the same guards: reading in one
snapshot, acting in one transaction with compare-and-set.
"""

from experiments import holdback
from experiments.decision import Keep
from experiments.experiment import Experiment
from experiments.holdback import End, Revert, Ruling
from server.ratchet import Ratchet
from server.store import Connection
from server.store import experiments as store
from server.store.routings import routings_in_force
from server.store.upkeep import setting
from server.trials import acts
from server.trials.acts import Act
from server.trials.ticking import FROZEN, Progress, each, fold, keep_progress, named, register


async def watch(ratchet: Ratchet) -> list[Ruling]:
    """Advance every running holdback once."""
    return await each(ratchet, await ratchet.store.read(held_back), _advance, name=named)


def held_back(conn: Connection) -> list[Experiment]:
    """The concluded experiments whose holdback is in force."""
    return [
        store.experiment(conn, routing.experiment_id)
        for routing in routings_in_force(conn).values()
        if routing.state == "holdback" and routing.experiment_id is not None
    ]


async def _advance(ratchet: Ratchet, experiment: Experiment) -> Ruling:
    now = ratchet.now()
    horizon = ratchet.traffic.horizon(now)
    trial = holdback.watched(experiment)
    await ratchet.store.write(register, trial, horizon)
    progress = await ratchet.store.read(fold, trial, horizon, holdback.latch)
    ruling, acted = await ratchet.store.write(settle, experiment, progress, horizon, now)
    if acted:
        await ratchet.traffic.refresh()
        if isinstance(ruling, Revert):
            ratchet.metrics.decided(experiment.program, "rollback", "holdback")
        ratchet.log.info(
            "holdback_over", experiment=experiment.experiment_id, ruling=type(ruling).__name__, reason=ruling.reason
        )
    return ruling


def settle(conn: Connection, experiment: Experiment, progress: Progress, horizon: int, now: int) -> tuple[Ruling, bool]:
    """Store what was folded and carry out the ruling on it, in one transaction; the flag says whether traffic moved.

    Raises: Stale when the evidence, the experiment or the routing was changed in the meantime.
    """
    keep_progress(conn, holdback.watched(experiment), progress, horizon)
    present = store.experiment(conn, experiment.experiment_id)
    if present.holdback is None or present.holdback.state != "running":
        return Keep("the holdback is over"), False
    ruling = holdback.decide(present, progress.after)
    if setting(conn, FROZEN):
        return ruling, False
    act = Act(
        experiment_id=present.experiment_id, reason=ruling.reason, by="holdback", actor=None, now=now, horizon=horizon
    )
    match ruling:
        case Revert():
            acts.rollback(conn, act)
        case End(passed=passed):
            acts.end_holdback(conn, present, act, passed=passed)
    return ruling, not isinstance(ruling, Keep)
