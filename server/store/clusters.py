"""What every unit's predictions on the goal add up to: for the report beside the test, never for a decision."""

from collections.abc import Sequence

import sqlalchemy as sa

from experiments.clusters import UnitSum
from experiments.experiment import Experiment
from server.store.tables import outcomes, predictions


def unit_sums(conn: sa.Connection, experiment: Experiment, cut: int) -> list[UnitSum]:
    """Every unit's scored predictions on the goal up to `cut` (µs), in each arm and epoch it met, in order."""
    metric = experiment.metrics[experiment.goal]
    p = predictions.c
    worst = sa.literal(metric.bounds[1] if metric.lower_is_better else metric.bounds[0])
    heard = _first_heard(experiment.goal, metric.sources, cut)
    failed = p.status != "ok"
    value = sa.case((heard.c.value.is_(None), sa.null()), (failed, worst), else_=heard.c.value)
    if metric.expected == "all":
        over = p.created_at <= cut - experiment.settings.outcome_window
        value = sa.case((failed | (heard.c.value.is_(None) & over), worst), else_=heard.c.value)
    each = (
        sa.select(p.unit_hash, p.assigned_variant.label("arm"), p.epoch, value.label("value"))
        .outerjoin(heard, heard.c.prediction_id == p.prediction_id)
        .where(p.experiment_id == experiment.experiment_id, p.created_at < cut)
        .subquery()
    )
    e = each.c
    query = (
        sa.select(e.unit_hash, e.arm, e.epoch, sa.func.count(), sa.func.sum(e.value))
        .where(e.value.is_not(None))
        .group_by(e.unit_hash, e.arm, e.epoch)
        .order_by(e.unit_hash, e.arm, e.epoch)
    )
    return [
        UnitSum(row[0], row[1], row[2], row[3], row[3] * metric.score(row[4] / row[3])) for row in conn.execute(query)
    ]


def _first_heard(metric: str, sources: Sequence[str], cut: int) -> sa.Subquery:
    """The value of each prediction's most trusted source, of what came in time and before `cut`."""
    o = outcomes.c
    trust = sa.case({source: place for place, source in enumerate(sources)}, value=o.source)
    turn = sa.func.row_number().over(partition_by=o.prediction_id, order_by=trust)
    heard = (
        sa.select(o.prediction_id, o.value, turn.label("turn"))
        .where(o.metric == metric, o.source.in_(sources), ~o.late, o.received_at < cut)
        .subquery()
    )
    return sa.select(heard.c.prediction_id, heard.c.value).where(heard.c.turn == 1).subquery()
