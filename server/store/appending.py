"""The statements of the hot path: how facts are appended, many at a time.

Every one is idempotent: a row whose key is there already is left as it was, so a group may be sent again when nobody
knows whether it was committed.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Any

import msgspec
import sqlalchemy as sa

from experiments.errors import RowRefused
from experiments.facts import Content, Outcome, OutcomeStatus, Prediction, Remark
from server.store.idempotency import Completion
from server.store.tables import conflicts, contents, idempotency, outcomes, predictions, remarks

Row = tuple[Any, ...]


class Entry(msgspec.Struct, frozen=True):
    """What is stored or refused as one: a finished prediction with all that belongs to it, or what one report says."""

    prediction: Row | None = None
    content: Row | None = None
    completion: Completion | None = None
    outcomes: tuple[Outcome, ...] = ()
    remarks: tuple[Remark, ...] = ()


def predicted(prediction: Prediction, content: Content | None, completion: Completion | None) -> Entry:
    """The entry of a finished prediction. Raises: RowRefused for text that no database can hold (a lone surrogate)."""
    try:
        calls = msgspec.json.encode(prediction.calls).decode()
        known = msgspec.json.encode(prediction.covariates).decode() if prediction.covariates else None
        row = (*_BEFORE_CALLS(prediction), calls, known, *_AFTER_COVARIATES(prediction))
        return Entry(row, _content(content) if content else None, completion)
    except UnicodeEncodeError as error:
        raise RowRefused(
            f"prediction {prediction.prediction_id} holds text that is not Unicode: {error.reason}"
        ) from None


def _content(content: Content) -> Row:
    return (
        content.prediction_id,
        content.unit,
        msgspec.json.encode(content.input).decode(),
        None if content.output is None else msgspec.json.encode(content.output).decode(),
        None if content.error_detail is None else _printable(content.error_detail),
        msgspec.json.encode(content.metadata).decode(),
    )


def _printable(text: str) -> str:
    """Text of foreign origin with what PostgreSQL or UTF-8 cannot hold written as an escape."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def append(conn: sa.Connection, entries: Sequence[Entry]) -> list[list[OutcomeStatus]]:
    """Store entries, in few statements; for each the statuses of its outcomes, then of its remarks."""
    _insert(conn, predictions, [e.prediction for e in entries if e.prediction])
    _insert(conn, contents, [e.content for e in entries if e.content])
    _complete(conn, [e.completion for e in entries if e.completion])
    judged = iter(_judge_outcomes(conn, [o for e in entries for o in e.outcomes]))
    noted = iter(_judge_remarks(conn, [r for e in entries for r in e.remarks]))
    return [[next(judged) for _ in e.outcomes] + [next(noted) for _ in e.remarks] for e in entries]


def _complete(conn: sa.Connection, completions: Sequence[Completion]) -> None:
    if not completions:
        return
    conn.execute(
        _COMPLETE,
        [{"answer": c.answer, "its_program": c.program, "its_key": c.key, "its_holder": c.holder} for c in completions],
    )


def _judge_outcomes(conn: sa.Connection, reported: Sequence[Outcome]) -> list[OutcomeStatus]:
    """Store outcomes in order; the first of a key stands, whoever sent it.

    On PostgreSQL another process may insert the same key in between. The unique key then decides: what was not inserted
    is read again and judged against what was there first.
    """
    if not reported:
        return []
    known = _stored_digests(conn, reported)
    new: dict[Row, Outcome] = {}
    for outcome in reported:
        if _key(outcome) not in known:
            new.setdefault(_key(outcome), outcome)
    # In one order everywhere, so that two processes never wait for each other.
    won = _insert_won(conn, [new[key] for key in sorted(new)])
    if len(won) < len(new):
        known |= _stored_digests(conn, [outcome for key, outcome in new.items() if key not in won])
    statuses: list[OutcomeStatus] = []
    differing = []
    for outcome in reported:
        standing = known.get(_key(outcome))
        if standing is None:
            known[_key(outcome)] = outcome.digest
            statuses.append("late" if outcome.late else "accepted")
        elif standing == outcome.digest:
            statuses.append("duplicate")
        else:
            statuses.append("conflict")
            differing.append(outcome)
    _insert(conn, conflicts, sorted(_row(outcome, conflicts) for outcome in differing))
    return statuses


def _judge_remarks(conn: sa.Connection, said: Sequence[Remark]) -> list[OutcomeStatus]:
    """Store remarks in order; the same one again from the same source is a duplicate."""
    if not said:
        return []
    new: dict[Row, Row] = {}
    for remark in said:
        label = None if remark.label is None else msgspec.json.encode(remark.label).decode()
        row = (remark.prediction_id, remark.source, remark.digest, label, remark.comment, remark.received_at)
        new.setdefault(row[:3], row)
    won = _insert_returning(conn, remarks, [new[key] for key in sorted(new)])
    statuses: list[OutcomeStatus] = []
    for remark in said:
        key = (remark.prediction_id, remark.source, remark.digest)
        statuses.append("accepted" if key in won else "duplicate")
        won.discard(key)
    return statuses


def _key(outcome: Outcome) -> Row:
    return (outcome.prediction_id, outcome.metric, outcome.source)


def _row(value: Any, table: sa.Table) -> Row:
    return tuple(getattr(value, column.name) for column in table.columns)


def _stored_digests(conn: sa.Connection, reported: Iterable[Outcome]) -> dict[Row, str]:
    ids = sorted({outcome.prediction_id for outcome in reported})
    # Each is one statement of one shape for any number of ids.
    if conn.dialect.name == "sqlite":
        rows = conn.exec_driver_sql(_STORED_SQLITE, (msgspec.json.encode(ids).decode(),))
    else:
        rows = conn.exec_driver_sql(_STORED_POSTGRES, (ids,))
    return {(row[0], row[1], row[2]): row[3] for row in rows}


_STORED_SQLITE = """SELECT prediction_id, metric, source, digest FROM outcomes
    WHERE prediction_id IN (SELECT value FROM json_each(?))"""
_STORED_POSTGRES = """SELECT prediction_id, metric, source, digest FROM outcomes
    WHERE prediction_id = ANY(%s::text[])"""


def _insert_won(conn: sa.Connection, new: Sequence[Outcome]) -> set[Row]:
    return _insert_returning(conn, outcomes, [_row(outcome, outcomes) for outcome in new])


def _insert(conn: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    """Insert rows in the table's order of columns; those whose key is taken are passed over."""
    if not rows:
        return
    if conn.dialect.name == "sqlite":
        conn.exec_driver_sql(_sqlite_insert(table), list(rows))
    else:
        conn.exec_driver_sql(_postgres_insert(table), tuple(map(list, zip(*rows, strict=True))))


def _insert_returning(conn: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> set[Row]:
    """Like `_insert`; the keys of the rows that were new. All three key columns of the table come first."""
    if not rows:
        return set()
    if conn.dialect.name == "sqlite":
        return {row[:3] for row in rows if conn.exec_driver_sql(_sqlite_insert(table), row).rowcount}
    columns = tuple(map(list, zip(*rows, strict=True)))
    returning = " RETURNING " + ", ".join(column.name for column in list(table.columns)[:3])
    return {tuple(row) for row in conn.exec_driver_sql(_postgres_insert(table) + returning, columns)}


@cache
def _sqlite_insert(table: sa.Table) -> str:
    # Names are our own tables'.
    marks = ", ".join("?" for _ in table.columns)
    return f"INSERT INTO {table.name} ({_names(table)}) VALUES ({marks}) ON CONFLICT DO NOTHING"  # noqa: S608


@cache
def _postgres_insert(table: sa.Table) -> str:
    """One statement of one shape for any number of rows: a column each as an array."""
    arrays = ", ".join(f"%s::{_POSTGRES_TYPES[type(column.type)]}[]" for column in table.columns)
    # Names and types are our own tables'.
    return f"INSERT INTO {table.name} ({_names(table)}) SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING"  # noqa: S608


_POSTGRES_TYPES: Mapping[type, str] = {
    sa.Text: "text",
    sa.BigInteger: "bigint",
    sa.Integer: "integer",
    sa.Double: "double precision",
    sa.Boolean: "boolean",
}


def _names(table: sa.Table) -> str:
    return ", ".join(column.name for column in table.columns)


_COMPLETE = idempotency.update().where(
    *(idempotency.c[name] == sa.bindparam(f"its_{name}") for name in ("program", "key", "holder"))
)
_PREDICTION = [column.name for column in predictions.columns]
_CALLS = _PREDICTION.index("calls")
_BEFORE_CALLS = attrgetter(*_PREDICTION[:_CALLS])
_AFTER_COVARIATES = attrgetter(*_PREDICTION[_CALLS + 2 :])
