"""What learning may learn from: predictions with their input, the label people gave them, and what was said in words.

Also predictions that an operator pinned to a variant: the facts do not tell them from ordinary traffic, and a label is
as true of them as of any other. The challengers' answers to requests that the champion served (shadows) are left out,
and so is what has lost its content.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from experiments.facts import shadow_id
from experiments.metrics import LABELLED, Metric, Source
from learning.compile_runs import Example
from server.store.rows import CHUNK, decode, fitting
from server.store.tables import contents, outcomes, predictions, remarks

MOST = 20_000
"""The newest examples that are read at most."""
MOST_TEXT = 32 * 2**20
"""The characters of inputs, outputs, labels and comments that are read at most: all of it is held in memory at once."""
_PAGE_TEXT = 4 * 2**20
"""The characters of a page at most, or one example that is longer."""


class _Remark(msgspec.Struct, frozen=True):
    source: Source
    label: dict[str, Any] | None
    comment: str | None


def examples_since(
    conn: sa.Connection, program: str, goal: str, metric: Metric, since: int, limit: int = MOST
) -> list[Example]:
    """The newest examples of a program from `since` (µs) on, oldest first; no more than make `MOST_TEXT` of text.

    The label of an example is what was reported, field by field the first word of the source that `metric` trusts most.
    Of a field that nobody reported the output that was served stands for it, where the goal could not be better.
    """
    found: list[Example] = []
    read = 0
    for rows in _pages(conn, program, goal, metric, since):
        read += sum(row.size for row in rows)
        reported = _reported(conn, [row.prediction_id for row in rows])
        confirmed = _confirmed(conn, [row.prediction_id for row in rows], goal, metric)
        made = (
            _example(row, reported.get(row.prediction_id, ()), metric, row.prediction_id in confirmed) for row in rows
        )
        found += [example for example in made if example is not None]
        if len(found) >= limit or read >= MOST_TEXT:
            break
    return found[:limit][::-1]


def labels_since(conn: sa.Connection, program: str, goal: str, metric: Metric, since: int, limit: int = MOST) -> int:
    """How many predictions from `since` (µs) on have something to learn from, counted up to `limit`."""
    wanted = _labelled(program, goal, metric, since).with_only_columns(predictions.c.prediction_id).limit(limit)
    return int(conn.scalar(sa.select(sa.func.count()).select_from(wanted.subquery())) or 0)


def _labelled(program: str, goal: str, metric: Metric, since: int) -> sa.Select[Any]:
    """The predictions that can be examples: whose goal was decided by a label, or could not have come out better."""
    p, o = predictions.c, outcomes.c
    decided = [o.prediction_id == p.prediction_id, o.metric == goal, o.source.in_(metric.sources)]
    if metric.kind not in LABELLED:
        low, high = metric.bounds
        decided += [o.value == (low if metric.lower_is_better else high), p.status != "error"]
    return (
        sa.select(p.prediction_id, p.unit_hash, p.created_at, contents.c.input, contents.c.output, _size())
        .join(contents, contents.c.prediction_id == p.prediction_id)
        .where(p.program == program, p.created_at >= since, p.prediction_id.not_like("%" + shadow_id("")))
        .where(sa.exists().where(*decided))
    )


def _size() -> sa.Label[int]:
    """How many characters a prediction and what was said of it have."""
    p, c, r = predictions.c, contents.c, remarks.c
    said = sa.func.length(sa.func.coalesce(r.label, "")) + sa.func.length(sa.func.coalesce(r.comment, ""))
    remarked = sa.select(sa.func.coalesce(sa.func.sum(said), 0)).where(r.prediction_id == p.prediction_id)
    return (
        sa.func.length(c.input) + sa.func.length(sa.func.coalesce(c.output, "")) + remarked.scalar_subquery()
    ).label("size")


def _pages(conn: sa.Connection, program: str, goal: str, metric: Metric, since: int) -> Iterator[Sequence[sa.Row[Any]]]:
    """The predictions that can be examples, newest first. Sizes are read before contents, which may be large."""
    p = predictions.c
    whole = _labelled(program, goal, metric, since).order_by(p.created_at.desc(), p.prediction_id.desc())
    query = whole.with_only_columns(p.created_at, p.prediction_id, _size()).limit(CHUNK)
    sized = conn.execute(query).all()
    while sized:
        page = fitting(sized, _PAGE_TEXT)
        yield conn.execute(whole.where(p.prediction_id.in_([row.prediction_id for row in page]))).all()
        position = sa.tuple_(sa.literal(page[-1].created_at), sa.literal(page[-1].prediction_id))
        sized = conn.execute(query.where(sa.tuple_(p.created_at, p.prediction_id) < position)).all()


def _reported(conn: sa.Connection, ids: Sequence[str]) -> Mapping[str, list[_Remark]]:
    """Everything that was remarked on each of these predictions, in order of arrival."""
    r = remarks.c
    query = sa.select(r.prediction_id, r.source, r.label, r.comment).where(r.prediction_id.in_(ids))
    found: dict[str, list[_Remark]] = {}
    for prediction_id, source, label, comment in conn.execute(query.order_by(r.received_at, r.source, r.digest)):
        known = None if label is None else decode(label, dict[str, Any])
        found.setdefault(prediction_id, []).append(_Remark(source, known, comment))
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


def _example(row: sa.Row[Any], said: Sequence[_Remark], metric: Metric, confirmed: bool) -> Example | None:
    """The example that a prediction makes; None when nothing says what its answer should have been."""
    label = _label(said, metric.sources)
    if confirmed and row.output is not None:
        label = {**decode(row.output, dict[str, Any]), **label}
    if not label or metric.field not in {None, *label}:
        return None
    return Example(
        prediction_id=row.prediction_id,
        unit_hash=row.unit_hash,
        at=row.created_at,
        input=decode(row.input, dict[str, Any]),
        label=label,
        feedback=tuple(remark.comment for remark in said if remark.comment),
    )


def _label(said: Sequence[_Remark], sources: Sequence[Source]) -> dict[str, Any]:
    """Field by field the first word of the most trusted source."""
    label: dict[str, Any] = {}
    for source in sources:
        for remark in said:
            if remark.source == source and remark.label is not None:
                label = {**remark.label, **label}
    return label
