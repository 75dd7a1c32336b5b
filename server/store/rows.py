"""What every function on rows shares: stored JSON, inserts that may meet an existing row, and paging."""

import base64
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from experiments.errors import Invalid

T = TypeVar("T")

MOST_ROWS = 500
"""The largest page."""

CHUNK = 500
"""How many ids one statement names at most."""


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page, newest first. `next_cursor` is None on the last one."""

    items: list[T]
    next_cursor: str | None


def encode(value: Any) -> str:
    """The JSON text of a value; equal values give equal text."""
    return msgspec.json.encode(value, order="deterministic").decode()


def decode(text: str, kind: type[T]) -> T:
    """A value from its stored JSON."""
    return msgspec.json.decode(text, type=kind)


def insert(conn: sa.Connection, table: sa.Table) -> "postgresql.Insert | sqlite.Insert":
    """An INSERT that knows `on_conflict_do_nothing` and `on_conflict_do_update`, in this database's dialect."""
    return postgresql.insert(table) if conn.dialect.name == "postgresql" else sqlite.insert(table)


def insert_new(conn: sa.Connection, table: sa.Table, **values: Any) -> bool:
    """Insert one row; False when its key (or another unique one) is taken, if only by a transaction still open."""
    statement = insert(conn, table).values(**values).on_conflict_do_nothing()
    return conn.execute(statement, execution_options={"preserve_rowcount": True}).rowcount == 1


def page_of(
    conn: sa.Connection, query: sa.Select[Any], at: sa.Column[int], key: sa.Column[str], limit: int, cursor: str | None
) -> tuple[Sequence[sa.Row[Any]], str | None]:
    """One page of `query`, newest first by (`at`, `key`), both of which it selects, and the cursor of the next page.

    Raises: Invalid at /limit or /cursor.
    """
    if not 1 <= limit <= MOST_ROWS:
        raise Invalid.at("/limit", f"{limit} is not a whole number from 1 to {MOST_ROWS}")
    if cursor is not None:
        query = query.where(sa.tuple_(at, key) < sa.tuple_(*_position(cursor)))
    rows = conn.execute(query.order_by(at.desc(), key.desc()).limit(limit + 1)).all()
    if len(rows) <= limit:
        return rows, None
    last = rows[limit - 1]
    return rows[:limit], _cursor(getattr(last, at.name), getattr(last, key.name))


def fitting(rows: Sequence[sa.Row[Any]], most: int) -> Sequence[sa.Row[Any]]:
    """The first of these rows, as many as have a `size` of `most` together; one at least."""
    total = 0
    for place, row in enumerate(rows):
        total += row.size
        if place and total > most:
            return rows[:place]
    return rows


def _cursor(at: int, key: str) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode((at, key))).decode().rstrip("=")


def _position(cursor: str) -> tuple[int, str]:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars="-_", validate=True)
        at, key = msgspec.json.decode(raw, type=tuple[int, str])
    except (ValueError, msgspec.MsgspecError):
        at, key = -1, "\0"
    if not 0 <= at < 2**63 or "\0" in key:
        raise Invalid.at("/cursor", "not a cursor of this list; use `next_cursor` of the page before as it is")
    return at, key
