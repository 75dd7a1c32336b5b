"""The report of an experiment, put together from what the store holds. One transaction reads all of it."""

from typing import Any

import msgspec

from experiments import holdback, sequence
from experiments.assignment import Routing
from experiments.clusters import weigh
from experiments.decision import decide
from experiments.errors import NotFound
from experiments.experiment import Experiment
from experiments.folding import Evidence, begin
from experiments.metrics import IMPLICIT
from experiments.report import Report, beside, report
from server.store import Connection
from server.store import experiments as store
from server.store.blocks import arm_counts, kept_evidence
from server.store.clusters import unit_sums
from server.store.routings import routing_in_force, splits_by_epoch


def report_of(conn: Connection, experiment_id: str, horizon: int) -> Report:
    """The present report of an experiment; a draft's is empty. Raises: NotFound."""
    experiment = store.experiment(conn, experiment_id)
    kept = kept_evidence(conn, experiment_id, Evidence)
    evidence = kept.body if kept else begin(experiment)
    made = make_report(conn, experiment, evidence, horizon, watch=watch_of(conn, experiment))
    goal = experiment.metrics[experiment.goal]
    if experiment.settings.randomize == "request" or not goal.bounded or goal.kind in IMPLICIT:
        return made
    sums, splits = unit_sums(conn, experiment, horizon), splits_by_epoch(conn, experiment_id)
    found = {
        c.challenger: weigh(sums, splits, experiment.champion, c.challenger, 1 - c.interval.level)
        for c in made.comparisons
        if c.metric == experiment.goal
    }
    return beside(made, experiment.goal, goal, found)


def watch_of(conn: Connection, experiment: Experiment) -> Evidence | None:
    """The evidence of the experiment's holdback; None where it has none."""
    if experiment.holdback is None:
        return None
    kept = kept_evidence(conn, holdback.watched(experiment).experiment_id, Evidence)
    return kept.body if kept else None


def evidence_report(conn: Connection, experiment: Experiment, evidence: Evidence, horizon: int) -> dict[str, Any]:
    """The report as plain values, as it is stored with a decision."""
    report = make_report(conn, experiment, evidence, horizon, watch=watch_of(conn, experiment))
    made: dict[str, Any] = msgspec.to_builtins(report)
    return made


def make_report(
    conn: Connection,
    experiment: Experiment,
    evidence: Evidence,
    horizon: int,
    *,
    watch: Evidence | None = None,
    epoch: int | None = None,
    split: dict[str, float] | None = None,
) -> Report:
    """The report on given evidence with facts up to `horizon`; a replay names the epoch and split of that time.

    Predictions made after the experiment was concluded are its holdback's, and are not counted among its own.
    """
    routing = routing_in_force(conn, experiment.program)
    if routing is None:
        raise NotFound(f"no program is called {experiment.program!r}")
    in_force = split if split is not None else _split(routing, experiment)
    return report(
        experiment,
        evidence,
        decide(experiment, evidence, in_force, horizon),
        counts=arm_counts(
            conn,
            experiment.experiment_id,
            experiment.goal,
            experiment.metrics[experiment.goal].sources,
            cut=horizon,
            window=experiment.settings.outcome_window,
            until=experiment.concluded_at,
        ),
        split=in_force if experiment.state != "draft" else experiment.split,
        epoch=routing.epoch if epoch is None else epoch,
        wealth=_wealth(conn, experiment),
        now=horizon,
        watch=watch,
    )


def _split(routing: Routing, experiment: Experiment) -> dict[str, float]:
    """The shares of this experiment's arms; none once other traffic has taken its place."""
    return routing.split if routing.experiment_id == experiment.experiment_id else {}


def _wealth(conn: Connection, experiment: Experiment) -> float | None:
    """What is left of the series' budget after this experiment drew its level, with the discoveries made before it."""
    levels = store.levels_of(conn, experiment.program)
    mine = next((level for level in levels if level.experiment_id == experiment.experiment_id), None)
    if mine is None:
        return None
    before = [level for level in levels if level.series == mine.series and level.t < mine.t]
    return sequence.wealth(mine.alpha, mine.t, sum(level.rejected for level in before))
