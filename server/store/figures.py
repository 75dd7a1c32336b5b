"""What the leader shows of the whole installation, read for all programs at once."""

import msgspec
import sqlalchemy as sa

from experiments.experiment import Experiment
from experiments.folding import Evidence
from learning.compile_runs import OPEN, Progress
from monitoring.families import Reason, RunState
from server.store.rows import decode
from server.store.tables import alarms, compile_events, compiles, evidence, experiments


class Run(msgspec.Struct, frozen=True):
    """What is counted of a compile run: a part of its body. `spent` in picodollars, `created_at` in µs."""

    program: str
    state: RunState
    reason: Reason
    spent: int
    created_at: int
    progress: Progress = Progress()


def live_evidence(conn: sa.Connection) -> dict[str, tuple[Experiment, Evidence]]:
    """The running or paused experiment of every program that has one, with what was folded of it so far."""
    e, x = evidence.c, experiments.c
    query = sa.select(x.body, e.body.label("evidence")).join(evidence, e.experiment_id == x.experiment_id)
    found = ((decode(row.body, Experiment), row.evidence) for row in conn.execute(query.where(x.state.in_(_LIVE))))
    return {experiment.program: (experiment, decode(body, Evidence)) for experiment, body in found}


_LIVE = ("running", "paused")


def compile_figures(conn: sa.Connection) -> dict[str, list[Run]]:
    """Every compile run that ever was, by program."""
    found: dict[str, list[Run]] = {}
    for body in conn.scalars(sa.select(compiles.c.body)):
        run = decode(body, Run)
        found.setdefault(run.program, []).append(run)
    return found


def last_told(conn: sa.Connection) -> dict[str, int]:
    """When (µs) each program's run under way last told of itself; when it was asked for if it never did."""
    c, e = compiles.c, compile_events.c
    at = sa.func.coalesce(sa.func.max(e.at), sa.func.max(c.created_at))
    query = sa.select(c.program, at).outerjoin(compile_events, e.compile_id == c.compile_id)
    return {row[0]: row[1] for row in conn.execute(query.where(c.state.in_(OPEN)).group_by(c.program))}


def alarm_counts(conn: sa.Connection) -> dict[str, dict[tuple[str, str], int]]:
    """How many drift alarms were ever raised, by program and there by (variant, signal)."""
    a = alarms.c
    query = sa.select(a.program, a.variant, a.signal, sa.func.count().label("n"))
    found: dict[str, dict[tuple[str, str], int]] = {}
    for row in conn.execute(query.group_by(a.program, a.variant, a.signal)):
        found.setdefault(row.program, {})[row.variant, row.signal] = row.n
    return found
