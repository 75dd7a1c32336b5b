"""Re-derive every decision of an experiment from the raw rows, and compare it with what was stored, digit for digit."""

from typing import Any

import msgspec

from experiments import folding
from experiments.decision import latch
from experiments.experiment import Decision, Experiment
from experiments.folding import Evidence
from server.reports import make_report
from server.store import Connection
from server.store import experiments as store
from server.store.blocks import closed_blocks, unit_counts
from server.store.routings import splits_by_epoch
from server.ticking import blocks_with_predictions, units_of

_OF_THE_MOMENT = {"state", "verdict", "reason", "recommended_action", "rolled_back", "units_expected"}
"""What a report says about the experiment's standing, which an operator's act may have changed since; an engine's
decision is compared on all of it."""


class Difference(msgspec.Struct, frozen=True):
    """One place where the replay does not agree with what was stored; `place` is a path in the report."""

    tick: int
    place: str
    stored: Any
    replayed: Any


class Replay(msgspec.Struct, frozen=True):
    """How a replay went: the decisions looked at, and every difference found."""

    experiment_id: str
    decisions: int
    blocks: int
    differences: tuple[Difference, ...]

    @property
    def agrees(self) -> bool:
        """Whether every decision was re-derived exactly."""
        return not self.differences


def replay(conn: Connection, experiment_id: str) -> Replay:
    """Fold the raw rows again, block by block, and decide again at every stored decision. Raises: NotFound."""
    experiment = store.experiment(conn, experiment_id)
    closings = closed_blocks(conn, experiment_id)
    differences: list[Difference] = []
    decisions = [decision for decision in store.decisions_of(conn, experiment_id) if decision.evidence]
    for decision in decisions:
        evidence = _evidence_at(conn, experiment, decision, closings)
        again = _report_at(conn, experiment, evidence, decision)
        ignored = _OF_THE_MOMENT if decision.by == "operator" else set[str]()
        stored = {k: v for k, v in decision.evidence.items() if k not in ignored}
        differences += _differences(decision.tick, "", stored, {k: v for k, v in again.items() if k not in ignored})
        if decision.by == "engine" and again["verdict"] != decision.verdict:
            differences.append(Difference(decision.tick, "verdict", decision.verdict, again["verdict"]))
    return Replay(experiment_id, len(decisions), len(closings), tuple(differences))


def _evidence_at(conn: Connection, experiment: Experiment, decision: Decision, closings: dict[int, int]) -> Evidence:
    splits = splits_by_epoch(conn, experiment.experiment_id)
    evidence = folding.begin(experiment)
    for number in blocks_with_predictions(conn, experiment, 0, decision.registered):
        span = folding.block_span(experiment, number)
        counts = unit_counts(conn, experiment.experiment_id, experiment.settings.randomize, number, *span)
        evidence = folding.register(evidence, counts, splits, number + 1)
    for number, cut in closings.items():
        if number < decision.blocks:
            units = units_of(conn, experiment, number, cut)
            evidence = latch(folding.fold(evidence, experiment, splits, number, units, cut), experiment)
    return evidence


def _report_at(conn: Connection, experiment: Experiment, evidence: Evidence, decision: Decision) -> dict[str, Any]:
    """The report as it must have been: of an experiment still running, with the split of that time."""
    then = msgspec.structs.replace(
        experiment, state="running", verdict=None, reason=None, rolled_back=False, concluded_at=None
    )
    epoch = decision.evidence["epoch"]
    report = make_report(
        conn,
        then,
        evidence,
        decision.horizon,
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
