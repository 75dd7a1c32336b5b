"""What there is, each with a mark that changes whenever it does: two looks tell what happened in between."""

from typing import Literal

import sqlalchemy as sa

from server.store.tables import alarms, compile_events, compiles, definitions, evidence, experiments, routings

Kind = Literal["definitions", "program", "experiment", "evidence", "compile", "alarm"]
Marks = dict[tuple[Kind, str], object]

_LATEST = 20
"""So many of the newest experiments and runs are looked at; older ones hardly change."""


def marks(conn: sa.Connection) -> Marks:
    """A mark for everything a listener may want to read again, by kind and id."""
    r, x, e, c, a = routings.c, experiments.c, evidence.c, compiles.c, alarms.c
    recent = sa.select(x.experiment_id).order_by(x.created_at.desc()).limit(_LATEST)
    told = sa.select(sa.func.max(compile_events.c.number)).where(compile_events.c.compile_id == c.compile_id)
    queries: dict[Kind, sa.Executable] = {
        "definitions": sa.select(sa.literal("definitions"), sa.func.max(definitions.c.version)),
        "program": sa.select(r.program, sa.func.max(r.epoch)).group_by(r.program),
        "experiment": sa.select(x.experiment_id, x.version).where(x.experiment_id.in_(recent)),
        "evidence": sa.select(e.experiment_id, e.blocks).where(e.experiment_id.in_(recent)),
        "alarm": sa.select(a.program, sa.func.count() + sa.func.count(a.closed_at)).group_by(a.program),
    }
    found: Marks = {(kind, row[0]): row[1] for kind, query in queries.items() for row in conn.execute(query)}
    runs = sa.select(c.compile_id, c.state, c.body, told.scalar_subquery()).order_by(c.created_at.desc())
    return found | {("compile", row[0]): tuple(row[1:]) for row in conn.execute(runs.limit(_LATEST))}


def changed(before: Marks, after: Marks) -> list[tuple[Kind, str]]:
    """What is new in `after`, or not as it was in `before`."""
    return [key for key, mark in after.items() if before.get(key) != mark]
