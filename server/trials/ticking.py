"""The decision tick: fold what has matured, decide, carry it out.

Reading and folding happen on a reader, in one snapshot, so that a long fold never delays a prediction. Everything that
follows from it is one transaction on the writer, guarded by compare-and-set on the evidence: two schedulers, or a tick
and an operator, never both act on the same facts.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import msgspec

from experiments import folding
from experiments.decision import Conclude, Drop, Fill, Keep, Ruling, Step, decide, fill, latch
from experiments.errors import NotFound, RatchetError, Stale
from experiments.experiment import Experiment
from experiments.facts import Entrant
from experiments.folding import Evidence
from experiments.report import series_points
from server.ratchet import Ratchet
from server.store import Connection
from server.store import experiments as store
from server.store.blocks import (
    Kept,
    block_units,
    close_block,
    keep_evidence,
    kept_evidence,
    next_exposure,
    put_point,
    register_units,
)
from server.store.routings import routing_in_force, splits_by_epoch
from server.store.upkeep import setting
from server.traffic import Program
from server.trials import acts
from server.trials.acts import Act

R = TypeVar("R")
T = TypeVar("T")

PATIENCE = 2.0
"""Seconds one tick may fold for before it stores what it has; the next one goes on from there."""

FROZEN = "frozen"
"""The switch that stops every automatic act; empty or absent when off."""


class Progress(msgspec.Struct, frozen=True):
    """What one tick has found out about one experiment: its evidence before and after, and the blocks it closed."""

    before: Kept[Evidence]
    after: Evidence
    closings: tuple[int, ...]


async def tick(ratchet: Ratchet) -> list[Ruling]:
    """Advance every live experiment once; returns the rulings, in order of the experiments' creation."""
    live = await ratchet.store.read(store.experiments_in, ("running", "paused"))
    return await each(ratchet, live, _advance, name=named)


async def each(
    ratchet: Ratchet,
    things: Iterable[T],
    advance: Callable[[Ratchet, T], Awaitable[R]],
    *,
    name: Callable[[T], Mapping[str, str]],
    tick: str = "tick",
) -> list[R]:
    """What `advance` makes of every thing in turn; `name` and `tick` are for the log.

    A failure concerns one thing only: it is logged, the others go on, and the next tick tries again.
    """
    overtaken, failed, crashed = (f"{tick}_{end}" for end in ("overtaken", "failed", "crashed"))
    made = []
    for thing in things:
        try:
            made.append(await advance(ratchet, thing))
        except Stale as lost:
            ratchet.log.info(overtaken, **name(thing), detail=lost.detail)
        except RatchetError as error:
            ratchet.log.warning(failed, **name(thing), detail=error.detail)
        except Exception:
            ratchet.log.exception(crashed, **name(thing))
    return made


async def each_program(ratchet: Ratchet, advance: Callable[[Ratchet, Program], Awaitable[R]], tick: str) -> list[R]:
    """What `advance` makes of every program in turn; see `each`."""
    programs = ratchet.traffic.programs
    return await each(ratchet, programs, advance, name=lambda program: {"program": program.name}, tick=tick)


def named(experiment: Experiment) -> dict[str, str]:
    """How the log calls an experiment."""
    return {"experiment": experiment.experiment_id}


async def _advance(ratchet: Ratchet, experiment: Experiment) -> Ruling:
    now = ratchet.now()
    horizon = ratchet.traffic.horizon(now)
    await ratchet.store.write(register, experiment, horizon)
    progress = await ratchet.store.read(fold, experiment, horizon)
    ruling, acted = await ratchet.store.write(settle, experiment, progress, horizon, now)
    if acted:
        await ratchet.traffic.refresh()
        if isinstance(ruling, Conclude):
            ratchet.metrics.decided(experiment.program, ruling.verdict, "engine")
        ratchet.log.info(
            "experiment_moved", experiment=experiment.experiment_id, ruling=type(ruling).__name__, reason=ruling.reason
        )
    return ruling


def register(conn: Connection, experiment: Experiment, horizon: int) -> None:
    """Enter the units of every block that lies before the horizon, and count them for the sample-ratio check."""
    kept = _kept(conn, experiment)
    after, upto = kept.body, folding.block_of(experiment, horizon)
    splits = folding.coins(experiment, splits_by_epoch(conn, experiment.experiment_id))
    for number in blocks_with_predictions(conn, experiment, after.registered, upto):
        counts = register_units(
            conn,
            experiment.experiment_id,
            experiment.settings.randomize,
            number,
            *folding.block_span(experiment, number),
        )
        after = folding.register(after, counts, splits, number + 1)
    if upto > kept.body.registered:
        _keep(conn, experiment, msgspec.structs.replace(after, registered=upto), horizon, kept)


def fold(
    conn: Connection, experiment: Experiment, horizon: int, latch: Callable[[Evidence, Experiment], Evidence] = latch
) -> Progress:
    """Fold closed blocks in order until one is still open, or patience runs out; `latch` after each."""
    before = _kept(conn, experiment)
    splits = folding.coins(experiment, splits_by_epoch(conn, experiment.experiment_id))
    evidence, closings = before.body, []
    until = time.monotonic() + PATIENCE
    for number in blocks_with_predictions(conn, experiment, evidence.blocks, evidence.registered):
        units = units_of(conn, experiment, number, horizon)
        if time.monotonic() > until or not folding.complete(experiment, units, horizon):
            break
        evidence = latch(folding.fold(evidence, experiment, splits, number, units, horizon), experiment)
        closings.append(number)
    return Progress(before, evidence, tuple(closings))


def units_of(conn: Connection, experiment: Experiment, number: int, cut: int) -> list[Entrant]:
    """The units that entered in a block, with what was known of them at `cut`."""
    return block_units(
        conn,
        experiment.experiment_id,
        experiment.settings.randomize,
        number,
        *folding.block_span(experiment, number),
        cut=cut,
        window=experiment.settings.outcome_window,
        per_unit=folding.PREDICTIONS_PER_UNIT,
        # Splits that move to and fro take units out of one arm sooner: how many predictions count must not tell which.
        one_epoch=experiment.settings.allocation == "adaptive",
    )


def blocks_with_predictions(conn: Connection, experiment: Experiment, first: int, end: int) -> Iterator[int]:
    """The numbers from `first` to below `end` of blocks in which anything was assigned; empty ones are stepped over."""
    number = first
    while number < end:
        since, until = folding.block_span(experiment, number)[0], folding.block_span(experiment, end)[0]
        at = next_exposure(conn, experiment.experiment_id, since, until)
        if at is None:
            return
        number = folding.block_of(experiment, at)
        yield number
        number += 1


def _kept(conn: Connection, experiment: Experiment) -> Kept[Evidence]:
    kept = kept_evidence(conn, experiment.experiment_id, Evidence)
    if kept is None:
        raise NotFound(f"experiment {experiment.experiment_id} has no evidence; it was never started")
    return kept


def _keep(conn: Connection, experiment: Experiment, after: Evidence, horizon: int, before: Kept[Evidence]) -> None:
    keep_evidence(conn, experiment.experiment_id, after, blocks=after.blocks, horizon=horizon, before=before)


def settle(conn: Connection, experiment: Experiment, progress: Progress, horizon: int, now: int) -> tuple[Ruling, bool]:
    """Store what was folded and carry out the ruling on it, in one transaction; the flag says whether traffic moved.

    Raises: Stale when the evidence, the experiment or the routing was changed in the meantime.
    """
    keep_progress(conn, experiment, progress, horizon)
    if progress.closings:
        for point in series_points(experiment, progress.after, now):
            put_point(conn, experiment.experiment_id, point.number, point.challenger, point.metric, point)
    present = store.experiment(conn, experiment.experiment_id)
    routing = routing_in_force(conn, experiment.program)
    if present.state != "running" or routing is None:
        return Keep(f"the experiment is {present.state}"), False
    ruling = decide(present, progress.after, routing.split, horizon)
    if setting(conn, FROZEN):
        return ruling, False
    act = Act(
        experiment_id=present.experiment_id, reason=ruling.reason, by="engine", actor=None, now=now, horizon=horizon
    )
    return ruling, _carry_out(conn, present, progress.after, ruling, act, full=routing.state == "full")


def keep_progress(conn: Connection, experiment: Experiment, progress: Progress, horizon: int) -> None:
    """Store what was folded. Raises: Stale when another tick came first."""
    if not progress.closings:
        return
    _keep(conn, experiment, progress.after, horizon, progress.before)
    for number in progress.closings:
        close_block(conn, experiment.experiment_id, number, horizon)


def _carry_out(
    conn: Connection, experiment: Experiment, evidence: Evidence, ruling: Ruling, act: Act, *, full: bool
) -> bool:
    match ruling:
        case Conclude(verdict="promote") if experiment.promotion == "recommend":
            if not any(d.by == "engine" for d in store.decisions_of(conn, experiment.experiment_id)):
                acts.recommend(conn, experiment, act)
            return not full and _fill(conn, experiment, evidence, act)
        case Conclude(verdict=verdict, challenger=challenger):
            acts.conclude(conn, experiment, act, verdict, challenger if verdict == "promote" else None)
            return True
        case Drop(split=split):
            acts.step(conn, act, split)
            return True
        case Step(split=split):
            acts.step(conn, act, split)
            stepped = msgspec.structs.replace(evidence, stepped_at=evidence.matured(experiment.challengers))
            _keep(conn, experiment, stepped, act.horizon, _kept(conn, experiment))
            return True
        case Fill() if not full:
            acts.fill(conn, act)
            return True
        case _:
            return False


def _fill(conn: Connection, experiment: Experiment, evidence: Evidence, act: Act) -> bool:
    """Keep to the planned number of units while a recommended promotion waits for its person."""
    if filled := fill(experiment, evidence):
        acts.fill(conn, msgspec.structs.replace(act, reason=filled.reason))
    return filled is not None
