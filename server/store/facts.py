"""Predictions and outcomes, read: to score an outcome, to browse examples.

They are written by the journal only; see `server/store/appending.py`.
"""

from collections.abc import Collection
from typing import Any

import msgspec
import sqlalchemy as sa

from experiments.facts import Call, Content, Outcome, OutcomeStatus, Prediction, Remark, Status
from experiments.metrics import Source
from server.store.rows import CHUNK, Page, decode, page_of
from server.store.tables import conflicts, contents, outcomes, predictions, remarks


class Scorable(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed of a prediction to score an outcome. `output` is None when nobody answered or it was deleted."""

    prediction_id: str
    program: str
    experiment_id: str | None
    assigned_variant: str
    variant: str | None
    status: Status
    output: dict[str, Any] | None
    created_at: int


class Reported(msgspec.Struct, frozen=True, kw_only=True):
    """One outcome or remark as stored. `metric` and `value` are None for a label or comment that decided no metric."""

    metric: str | None
    value: float | None
    label: dict[str, Any] | None
    comment: str | None
    source: Source
    status: OutcomeStatus
    received_at: int


class Example(msgspec.Struct, frozen=True):
    """One prediction with its content (None once deleted) and everything reported about it, in order of arrival."""

    prediction: Prediction
    content: Content | None
    outcomes: list[Reported]


def scorable_predictions(conn: sa.Connection, ids: Collection[str]) -> dict[str, Scorable]:
    """The stored ones of these predictions, by id; unknown ids are left out."""
    p = predictions.c
    columns = [p[name] for name in Scorable.__struct_fields__ if name != "output"]
    joined = predictions.outerjoin(contents, contents.c.prediction_id == p.prediction_id)
    found: dict[str, Scorable] = {}
    for chunk in _chunks(ids):
        query = sa.select(*columns, contents.c.output).select_from(joined).where(p.prediction_id.in_(chunk))
        for row in conn.execute(query):
            values = row._asdict()
            output = values.pop("output")
            found[row.prediction_id] = Scorable(**values, output=_object(output))
    return found


def said_of(conn: sa.Connection, prediction_id: str) -> tuple[list[Outcome], list[Remark]]:
    """The outcomes that stand for a prediction, and what was remarked on it."""
    found = conn.execute(sa.select(outcomes).where(outcomes.c.prediction_id == prediction_id))
    said = conn.execute(sa.select(remarks).where(remarks.c.prediction_id == prediction_id))
    return (
        [Outcome(**row._asdict()) for row in found],
        [Remark(**{**row._asdict(), "label": _object(row.label)}) for row in said],
    )


def example(conn: sa.Connection, prediction_id: str) -> Example | None:
    """One prediction with all that is known about it."""
    rows = conn.execute(_EXAMPLES.where(predictions.c.prediction_id == prediction_id)).all()
    return _examples(conn, rows)[0] if rows else None


def prediction_page(
    conn: sa.Connection,
    program: str,
    *,
    variant: str | None = None,
    metric: str | None = None,
    value: float | None = None,
    since: int | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[Example]:
    """A program's predictions, newest first, that meet every condition given.

    They were assigned `variant`; made at `since` (µs) or later; and have an outcome of `metric`, or of any metric if
    none is named, with this `value`, or with any if none is given.

    Raises: Invalid at /limit or /cursor.
    """
    p, o = predictions.c, outcomes.c
    query = _EXAMPLES.where(p.program == program)
    if variant is not None:
        query = query.where(p.assigned_variant == variant)
    if since is not None:
        query = query.where(p.created_at >= since)
    if metric is not None or value is not None:
        wanted = [o.metric == metric] if metric is not None else []
        wanted += [o.value == value] if value is not None else []
        query = query.where(sa.exists().where(o.prediction_id == p.prediction_id, *wanted))
    rows, following = page_of(conn, query, p.created_at, p.prediction_id, limit, cursor)
    return Page(_examples(conn, rows), following)


_CONTENT = [column.label(f"content_{column.name}") for column in contents.c]
_EXAMPLES = sa.select(predictions, *_CONTENT).select_from(
    predictions.outerjoin(contents, contents.c.prediction_id == predictions.c.prediction_id)
)


def _examples(conn: sa.Connection, rows: Collection[sa.Row[Any]]) -> list[Example]:
    reported = _reported(conn, [row.prediction_id for row in rows])
    return [Example(_prediction(row), _content(row), reported[row.prediction_id]) for row in rows]


def _prediction(row: sa.Row[Any]) -> Prediction:
    values = {name: getattr(row, name) for name in Prediction.__struct_fields__}
    known = _object(row.covariates) or {}
    return Prediction(**{**values, "calls": decode(row.calls, tuple[Call, ...]), "covariates": known})


def _content(row: sa.Row[Any]) -> Content | None:
    if row.content_prediction_id is None:
        return None
    return Content(
        prediction_id=row.prediction_id,
        unit=row.content_unit,
        input=decode(row.content_input, dict[str, Any]),
        output=_object(row.content_output),
        error_detail=row.content_error_detail,
        metadata=decode(row.content_metadata, dict[str, Any]),
    )


def _reported(conn: sa.Connection, ids: Collection[str]) -> dict[str, list[Reported]]:
    """Outcomes, conflicting ones included, each with the label and comment that came with it, and other remarks."""
    said = {
        (row.prediction_id, row.source, row.digest): row
        for row in conn.execute(sa.select(remarks).where(remarks.c.prediction_id.in_(ids)))
    }
    found: dict[str, list[Reported]] = {prediction_id: [] for prediction_id in ids}
    used = set()
    stored = sa.select(outcomes).where(outcomes.c.prediction_id.in_(ids))
    differing = sa.select(conflicts).where(conflicts.c.prediction_id.in_(ids))
    for status, query in ((None, stored), ("conflict", differing)):
        for row in conn.execute(query):
            key = (row.prediction_id, row.source, row.digest)
            used.add(key)
            judged = status or ("late" if row.late else "accepted")
            found[row.prediction_id].append(_report(row, said.get(key), judged, row.metric, row.value))
    for key, remark in said.items():
        if key not in used:
            found[remark.prediction_id].append(_report(remark, remark, "accepted", None, None))
    for reports in found.values():
        reports.sort(key=lambda r: (r.received_at, r.metric or "", r.source))
    return found


def _report(row: Any, remark: Any, status: Any, metric: str | None, value: float | None) -> Reported:
    return Reported(
        metric=metric,
        value=value,
        label=_object(remark.label) if remark else None,
        comment=remark.comment if remark else None,
        source=row.source,
        status=status,
        received_at=row.received_at,
    )


def _object(text: str | None) -> dict[str, Any] | None:
    return None if text is None else decode(text, dict[str, Any])


def _chunks(ids: Collection[str]) -> list[list[str]]:
    ordered = list(ids)
    return [ordered[i : i + CHUNK] for i in range(0, len(ordered), CHUNK)]
