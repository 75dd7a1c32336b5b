"""Re-derive every decision of an experiment from the raw rows, and compare it with what was stored.

On one kind of processor the numbers come out the same to the last bit. Vectorised logarithms round otherwise with
AVX-512 than without, by some 1e-14 of the result, so numbers that near are told as rounding and not as a difference.
"""

import math
from collections.abc import Callable
from typing import Any

import msgspec

from experiments import folding, holdback
from experiments.decision import latch
from experiments.experiment import ENGINE, Decision, Experiment
from experiments.folding import Evidence
from experiments.holdback import Revert
from server.store import Connection
from server.store import experiments as store
from server.store.blocks import closed_blocks, unit_counts
from server.store.routings import splits_by_epoch
from server.trials.reports import make_report
from server.trials.ticking import blocks_with_predictions, units_of

_OF_THE_MOMENT = {"state", "verdict", "reason", "recommended_action", "rolled_back", "units_expected"}
"""What a report says about the experiment's standing, which an operator's act may have changed since; an engine's
decision is compared on all of it."""


ROUNDING = 1e-9
"""The share by which a number may be off on another processor, with much room; no decision hangs on so little."""


class Difference(msgspec.Struct, frozen=True):
    """One place where the replay does not agree with what was stored; `place` is a path in the report."""

    tick: int
    place: str
    stored: Any
    replayed: Any


class Replay(msgspec.Struct, frozen=True):
    """How a replay went: the decisions looked at, and every difference found.

    `rounding` is the greatest share by which a number was off without being a difference: 0 to the last bit.
    """

    experiment_id: str
    decisions: int
    blocks: int
    differences: tuple[Difference, ...]
    rounding: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether every decision was re-derived."""
        return not self.differences


def replay(conn: Connection, experiment_id: str) -> Replay:
    """Fold the raw rows again, block by block, and decide again at every stored decision. Raises: NotFound."""
    experiment = store.experiment(conn, experiment_id)
    decisions = [decision for decision in store.decisions_of(conn, experiment_id) if decision.evidence]
    folded = [experiment, holdback.watched(experiment)] if experiment.holdback else [experiment]
    found = [difference for decision in decisions for difference in _differing(conn, experiment, decision)]
    gaps = [(one, _gap(one)) for one in found]
    return Replay(
        experiment_id,
        decisions=len(decisions),
        blocks=sum(len(closed_blocks(conn, trial.experiment_id)) for trial in folded),
        differences=tuple(one for one, gap in gaps if gap > ROUNDING),
        rounding=max((gap for _, gap in gaps if gap <= ROUNDING), default=0.0),
    )


def _gap(difference: Difference) -> float:
    """By what share of the larger two numbers are apart; infinite for anything but two numbers with a fraction."""
    stored, replayed = difference.stored, difference.replayed
    if not isinstance(stored, float) or not isinstance(replayed, float):
        return math.inf
    return abs(stored - replayed) / max(abs(stored), abs(replayed), 1.0)


def _differing(conn: Connection, experiment: Experiment, decision: Decision) -> list[Difference]:
    """Where one decision, and the report it rests on, come out otherwise than they are stored."""
    if decision.engine != ENGINE:
        return [Difference(decision.tick, "/engine", decision.engine, ENGINE)]
    then = _as_it_was(experiment, decision)
    evidence = _folded(conn, then, decision.blocks, decision.registered, latch)
    watch = None
    if then.holdback is not None:
        watch = _folded(conn, holdback.watched(then), *decision.watched, holdback.latch)
    again = _report_at(conn, then, evidence, watch, decision)
    verdict = again["verdict"]
    if decision.by == "holdback":
        verdict = "rollback" if watch and isinstance(holdback.decide(then, watch), Revert) else None
    ignored = _OF_THE_MOMENT if decision.by == "operator" else set[str]()
    stored, replayed = ({k: v for k, v in of.items() if k not in ignored} for of in (decision.evidence, again))
    found = _differences(decision.tick, "", stored, replayed)
    if decision.by != "operator" and verdict != decision.verdict:
        found.append(Difference(decision.tick, "verdict", decision.verdict, verdict))
    return found


def _as_it_was(experiment: Experiment, decision: Decision) -> Experiment:
    """The experiment when the decision was taken: running, or concluded if it took a promotion back."""
    if decision.verdict == "rollback" and decision.by != "engine":
        watched = experiment.holdback
        if watched is not None and watched.state != "passed" and watched.ended_at == decision.created_at:
            watched = msgspec.structs.replace(watched, state="running", ended_at=None)
        return msgspec.structs.replace(experiment, rolled_back=False, holdback=watched)
    return msgspec.structs.replace(
        experiment, state="running", verdict=None, reason=None, rolled_back=False, concluded_at=None, holdback=None
    )


def _folded(
    conn: Connection,
    experiment: Experiment,
    blocks: int,
    registered: int,
    latch: Callable[[Evidence, Experiment], Evidence],
) -> Evidence:
    """The evidence of an experiment, or of a holdback in its terms, after so many blocks."""
    splits = folding.coins(experiment, splits_by_epoch(conn, experiment.experiment_id))
    evidence = folding.begin(experiment)
    for number in blocks_with_predictions(conn, experiment, 0, registered):
        span = folding.block_span(experiment, number)
        counts = unit_counts(conn, experiment.experiment_id, experiment.settings.randomize, number, *span)
        evidence = folding.register(evidence, counts, splits, number + 1)
    for number, cut in closed_blocks(conn, experiment.experiment_id).items():
        if number < blocks:
            units = units_of(conn, experiment, number, cut)
            evidence = latch(folding.fold(evidence, experiment, splits, number, units, cut), experiment)
    return evidence


def _report_at(
    conn: Connection, then: Experiment, evidence: Evidence, watch: Evidence | None, decision: Decision
) -> dict[str, Any]:
    """The report as it must have been, with the split of that time."""
    epoch = decision.evidence["epoch"]
    report = make_report(
        conn,
        then,
        evidence,
        decision.horizon,
        watch=watch,
        epoch=epoch if isinstance(epoch, int) else 0,
        split=decision.split_before,
    )
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(report))
    return plain


def _differences(tick: int, place: str, stored: Any, replayed: Any) -> list[Difference]:
    if isinstance(stored, dict) and isinstance(replayed, dict):
        return [
            difference
            for key in sorted(stored.keys() | replayed.keys())
            for difference in _differences(tick, f"{place}/{key}", stored.get(key), replayed.get(key))
        ]
    if isinstance(stored, list) and isinstance(replayed, list) and len(stored) == len(replayed):
        return [
            difference
            for index, pair in enumerate(zip(stored, replayed, strict=True))
            for difference in _differences(tick, f"{place}/{index}", *pair)
        ]
    return [] if stored == replayed else [Difference(tick, place, stored, replayed)]
