"""The database's own constants, which ticks of the scheduler were taken, and content that is old enough to go."""

import sqlalchemy as sa

from server.store.rows import CHUNK, insert, insert_new
from server.store.tables import contents, meta, remarks, ticks


def constant(conn: sa.Connection, key: str, proposed: str) -> str:
    """The value of a constant of this database, which is `proposed` if it has none yet (such as the pepper)."""
    insert_new(conn, meta, key=key, value=proposed)
    return str(conn.scalar(sa.select(meta.c.value).where(meta.c.key == key)))


def setting(conn: sa.Connection, key: str) -> str | None:
    """A switch kept in the database (such as `frozen`); None when it was never set."""
    return conn.scalar(sa.select(meta.c.value).where(meta.c.key == key))


def settings_like(conn: sa.Connection, beginning: str) -> dict[str, str]:
    """Every switch whose key has this beginning, by the rest of its key."""
    rows = conn.execute(sa.select(meta).where(meta.c.key.startswith(beginning, autoescape=True)))
    return {row.key.removeprefix(beginning): row.value for row in rows}


def put_setting(conn: sa.Connection, key: str, value: str) -> None:
    """Set a switch."""
    statement = insert(conn, meta).values(key=key, value=value)
    conn.execute(statement.on_conflict_do_update(index_elements=[meta.c.key], set_={"value": value}))


def claim_tick(conn: sa.Connection, job: str, due_at: int) -> bool:
    """Whether this process is the one to run the job due at `due_at` (µs): the first of all to ask."""
    return insert_new(conn, ticks, job=job, due_at=due_at, finished_at=None)


def finish_tick(conn: sa.Connection, job: str, due_at: int, finished_at: int) -> None:
    """Note that a claimed tick came to its end, and forget this job's ticks of more than 1,000 before."""
    t = ticks.c
    conn.execute(ticks.update().where(t.job == job, t.due_at == due_at).values(finished_at=finished_at))
    recent = sa.select(t.due_at).where(t.job == job).order_by(t.due_at.desc()).offset(1000).limit(1).scalar_subquery()
    conn.execute(ticks.delete().where(t.job == job, t.due_at <= recent))


def last_finished(conn: sa.Connection) -> dict[str, int]:
    """When (µs) each job last came to its end."""
    query = sa.select(ticks.c.job, sa.func.max(ticks.c.finished_at)).where(ticks.c.finished_at.is_not(None))
    return {row[0]: row[1] for row in conn.execute(query.group_by(ticks.c.job))}


def purge_contents(conn: sa.Connection, before: int) -> int:
    """Delete some of the content of predictions made before `before` (µs), oldest first; returns how many rows.

    A few hundred at a time, so that no prediction waits for it; 0 when none is left.
    """
    # An id is a UUIDv7, which begins with its millisecond: the primary keys are the index by age.
    first = f"{before // 1000:012x}"
    end = f"{first[:8]}-{first[8:]}"
    purged = 0
    for table in (contents, remarks):
        old = sa.select(table.c.prediction_id).where(table.c.prediction_id < end)
        some = old.order_by(table.c.prediction_id).limit(CHUNK)
        purged += conn.execute(table.delete().where(table.c.prediction_id.in_(some))).rowcount
    return purged
