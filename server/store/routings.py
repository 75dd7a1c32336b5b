"""Who gets what: the append-only log of every program's traffic rules.

The newest row of a program is in force. A change is the insert of the next epoch; the primary key decides who won.
"""

import sqlalchemy as sa

from experiments.assignment import Routing, predictions_of
from experiments.errors import Stale
from server.store.rows import decode, encode, insert_new
from server.store.tables import definitions, routings


def append_routing(conn: sa.Connection, routing: Routing) -> None:
    """Put a routing in force. Raises: Stale unless its epoch is the one after the program's latest (the first is 1)."""
    latest = conn.scalar(sa.select(sa.func.max(routings.c.epoch)).where(routings.c.program == routing.program)) or 0
    won = latest + 1 == routing.epoch and insert_new(
        conn,
        routings,
        program=routing.program,
        epoch=routing.epoch,
        body=encode(routing),
        experiment_id=routing.experiment_id,
        created_at=routing.created_at,
    )
    if not won:
        raise Stale(f"the traffic of program {routing.program!r} was changed by somebody else; read it again and retry")


def routings_in_force(conn: sa.Connection) -> dict[str, Routing]:
    """The routing in force of every program, by name."""
    newest = sa.select(routings.c.program, sa.func.max(routings.c.epoch)).group_by(routings.c.program)
    query = sa.select(routings.c.body).where(sa.tuple_(routings.c.program, routings.c.epoch).in_(newest))
    return {routing.program: routing for routing in (decode(body, Routing) for body in conn.scalars(query))}


def routing_in_force(conn: sa.Connection, program: str) -> Routing | None:
    """The routing in force of one program; None before its first."""
    query = sa.select(routings.c.body).where(routings.c.program == program).order_by(routings.c.epoch.desc()).limit(1)
    body = conn.scalar(query)
    return None if body is None else decode(body, Routing)


def routings_of(conn: sa.Connection, experiment_id: str) -> list[Routing]:
    """Every routing an experiment (or holdback, by the id of its evidence) had part in, in order of epoch."""
    owner, first = predictions_of(experiment_id)
    here = (routings.c.experiment_id == owner) & (routings.c.epoch >= first)
    query = sa.select(routings.c.body).where(here).order_by(routings.c.epoch)
    return [decode(body, Routing) for body in conn.scalars(query)]


def splits_by_epoch(conn: sa.Connection, experiment_id: str) -> dict[int, dict[str, float]]:
    """What the split of an experiment was, epoch by epoch."""
    return {routing.epoch: routing.split for routing in routings_of(conn, experiment_id)}


def traffic_mark(conn: sa.Connection) -> tuple[int, int]:
    """A pair that changes whenever the definitions or any program's routing do: for a cheap poll.

    The version of the definitions, and the number of routings ever made.
    """
    version = sa.select(sa.func.coalesce(sa.func.max(definitions.c.version), 0)).scalar_subquery()
    made = sa.select(sa.func.count()).select_from(routings).scalar_subquery()
    row = conn.execute(sa.select(version, made)).one()
    return int(row[0]), int(row[1])
