"""What learning may learn from: predictions with their input, the label people gave them, and what was said in words.

Also predictions that an operator pinned to a variant: the facts do not tell them from ordinary traffic, and a label is
as true of them as of any other. The challengers' answers to requests that the champion served (shadows) are left out,
and so is what has lost its content.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from experiments.facts import shadow_id
from experiments.metrics import Metric, Source
from learning.compiling import Example
from server.store.rows import CHUNK, decode
from server.store.tables import contents, outcomes, predictions, remarks

MOST = 20_000
"""The newest examples that are read at most."""


def examples_since(
    conn: sa.Connection, program: str, goal: str, metric: Metric, since: int, limit: int = MOST
) -> list[Example]:
    """The newest examples of a program from `since` (µs) on, oldest first.

    The label of an example is what was reported, field by field the first word of the source that `metric` trusts most.
    Where nothing was, the output that was served stands for it, if the goal's outcome says that it could not be better.
    """
    found: list[Example] = []
    for rows in _pages(conn, program, goal, metric, since):
        reported = _reported(conn, [row.prediction_id for row in rows])
        confirmed = _confirmed(conn, [row.prediction_id for row in rows], goal, metric)
        made = (
            _example(row, reported.get(row.prediction_id, ()), metric, row.prediction_id in confirmed) for row in rows
        )
        found += [example for example in made if example is not None]
        if len(found) >= limit:
            break
    return found[:limit][::-1]


def labels_since(conn: sa.Connection, program: str, goal: str, metric: Metric, since: int, limit: int = MOST) -> int:
    """How many predictions from `since` (µs) on have something to learn from, counted up to `limit`."""
    wanted = _labelled(program, goal, metric, since).with_only_columns(predictions.c.prediction_id).limit(limit)
    return int(conn.scalar(sa.select(sa.func.count()).select_from(wanted.subquery())) or 0)


def _labelled(program: str, goal: str, metric: Metric, since: int) -> sa.Select[Any]:
    """The predictions that can be examples."""
    p, o, r = predictions.c, outcomes.c, remarks.c
    labelled = sa.exists().where(r.prediction_id == p.prediction_id, r.label.is_not(None), r.source.in_(metric.sources))
    best = sa.exists().where(o.prediction_id == p.prediction_id, *_is_best(goal, metric), p.status != "error")
    return (
        sa.select(p.prediction_id, p.unit_hash, p.created_at, contents.c.input, contents.c.output)
        .join(contents, contents.c.prediction_id == p.prediction_id)
        .where(p.program == program, p.created_at >= since, p.prediction_id.not_like("%" + shadow_id("")))
        .where(labelled | best)
    )


def _is_best(goal: str, metric: Metric) -> tuple[sa.ColumnElement[bool], ...]:
    """The outcome could not be better, and comes from a source that counts."""
    low, high = metric.bounds
    o = outcomes.c
    best = low if metric.lower_is_better else high
    return (o.metric == goal, o.source.in_(metric.sources), (o.value == best) & sa.literal(metric.bounded))


def _pages(conn: sa.Connection, program: str, goal: str, metric: Metric, since: int) -> Iterator[Sequence[sa.Row[Any]]]:
    """The predictions that can be examples, newest first."""
    p = predictions.c
    query = _labelled(program, goal, metric, since).order_by(p.created_at.desc(), p.prediction_id.desc()).limit(CHUNK)
    rows = conn.execute(query).all()
    while rows:
        yield rows
        position = sa.tuple_(sa.literal(rows[-1].created_at), sa.literal(rows[-1].prediction_id))
        rows = conn.execute(query.where(sa.tuple_(p.created_at, p.prediction_id) < position)).all()


def _reported(conn: sa.Connection, ids: Sequence[str]) -> Mapping[str, list[sa.Row[Any]]]:
    """Everything that was remarked on each of these predictions, in order of arrival."""
    r = remarks.c
    query = sa.select(r.prediction_id, r.source, r.label, r.comment).where(r.prediction_id.in_(ids))
    found: dict[str, list[sa.Row[Any]]] = {}
    for row in conn.execute(query.order_by(r.received_at, r.source, r.digest)):
        found.setdefault(row.prediction_id, []).append(row)
    return found


def _confirmed(conn: sa.Connection, ids: Sequence[str], goal: str, metric: Metric) -> set[str]:
    """Those of these predictions whose goal has the best value, by the source that is trusted most."""
    o = outcomes.c
    query = sa.select(o.prediction_id, o.source, o.value).where(o.prediction_id.in_(ids), o.metric == goal)
    standing: dict[str, tuple[int, float]] = {}
    for row in conn.execute(query):
        if row.source in metric.sources:
            said = (metric.sources.index(row.source), row.value)
            standing[row.prediction_id] = min(said, standing.get(row.prediction_id, said))
    return {one for one, (_, value) in standing.items() if metric.bounded and metric.score(value) >= 1.0}


def _example(row: sa.Row[Any], said: Iterable[sa.Row[Any]], metric: Metric, confirmed: bool) -> Example | None:
    """The example that a prediction makes; None when nothing says what its answer should have been."""
    said = list(said)
    label = _label(said, metric.sources)
    if not label and confirmed and row.output is not None:
        label = decode(row.output, dict[str, Any])
    if not label:
        return None
    return Example(
        prediction_id=row.prediction_id,
        unit_hash=row.unit_hash,
        at=row.created_at,
        input=decode(row.input, dict[str, Any]),
        label=label,
        feedback=tuple(remark.comment for remark in said if remark.comment),
    )


def _label(said: Sequence[sa.Row[Any]], sources: Sequence[Source]) -> dict[str, Any]:
    label: dict[str, Any] = {}
    for source in sources:
        for remark in said:
            if remark.source == source and remark.label is not None:
                label = {**decode(remark.label, dict[str, Any]), **label}
    return label
