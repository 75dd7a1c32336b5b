"""Experiments as they stand, what was decided about them, and the series of levels they drew on.

Everything a decision tick writes is one transaction: compose these functions in one function given to `store.write`.
A compare-and-set that loses raises `Stale` and takes its whole job back.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from experiments import holdback
from experiments.assignment import Routing
from experiments.errors import Conflict, NotFound, Stale
from experiments.experiment import Decision, Experiment, State
from server.store.rows import Page, decode, encode, insert_new, page_of
from server.store.tables import decisions, experiments, levels, promotions


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a program's e-LOND series: experiment number `t` (from 1) of `series` tested at `level`.

    `log_e` is the e-value it ended with (None while it runs or when it ended without one), `rejected` whether that
    counted as a discovery.
    """

    program: str
    series: int
    t: int
    experiment_id: str
    alpha: float
    level: float
    log_e: float | None = None
    rejected: bool = False


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """One change of champion. `by` is engine, operator or holdback; `rolled_back_at` is None while it stands."""

    promotion_id: str
    program: str
    from_variant: str
    to_variant: str
    experiment_id: str | None
    by: str
    actor: str | None
    reason: str
    created_at: int
    rolled_back_at: int | None = None


def insert_experiment(conn: sa.Connection, experiment: Experiment) -> None:
    """Keep a new experiment. Raises: Conflict if it is live already and so is another one of its program."""
    with _one_live(conn, experiment):
        conn.execute(experiments.insert().values(_row(experiment)))


def update_experiment(conn: sa.Connection, experiment: Experiment) -> Experiment:
    """Replace an experiment that stands at `experiment.version`; returns it with its new version.

    Raises: Stale when somebody else changed it first; Conflict when it is to run while another one of its program does.
    """
    changed = msgspec.structs.replace(experiment, version=experiment.version + 1)
    here = (experiments.c.experiment_id == experiment.experiment_id) & (experiments.c.version == experiment.version)
    with _one_live(conn, experiment):
        done = conn.execute(experiments.update().where(here).values(_row(changed))).rowcount
    if not done:
        raise Stale(f"experiment {experiment.experiment_id} was changed by somebody else; read it again and retry")
    return changed


@contextmanager
def _one_live(conn: sa.Connection, experiment: Experiment) -> Iterator[None]:
    """Turn the unique key on live experiments into a Conflict, and leave the transaction usable after it."""
    try:
        with conn.begin_nested():
            yield
    except IntegrityError:
        raise Conflict(
            f"program {experiment.program!r} has a running or paused experiment already; conclude that one first"
        ) from None


def _row(experiment: Experiment) -> dict[str, Any]:
    return {
        "experiment_id": experiment.experiment_id,
        "program": experiment.program,
        "state": experiment.state,
        "version": experiment.version,
        "body": encode(experiment),
        "created_at": experiment.created_at,
    }


def experiment(conn: sa.Connection, experiment_id: str) -> Experiment:
    """Raises: NotFound."""
    body = conn.scalar(sa.select(experiments.c.body).where(experiments.c.experiment_id == experiment_id))
    if body is None:
        raise NotFound(f"no experiment has the id {experiment_id!r}")
    return decode(body, Experiment)


def interrupt_holdback(conn: sa.Connection, routing: Routing, now: int) -> None:
    """Mark the holdback of `routing`, if it is one, as ended at `now` (µs) by what is about to take its place."""
    if routing.state == "holdback" and routing.experiment_id is not None:
        update_experiment(conn, holdback.over(experiment(conn, routing.experiment_id), now=now))


def live_experiment(conn: sa.Connection, program: str) -> Experiment | None:
    """The program's running or paused experiment, of which there is at most one."""
    found = experiments_in(conn, ("running", "paused"), program=program)
    return found[0] if found else None


def experiments_in(conn: sa.Connection, states: Collection[State], program: str | None = None) -> list[Experiment]:
    """Every experiment in one of these states, oldest first."""
    query = sa.select(experiments.c.body).where(experiments.c.state.in_(states))
    if program is not None:
        query = query.where(experiments.c.program == program)
    ordered = query.order_by(experiments.c.created_at, experiments.c.experiment_id)
    return [decode(body, Experiment) for body in conn.scalars(ordered)]


def experiments_page(
    conn: sa.Connection,
    *,
    program: str | None = None,
    state: State | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[Experiment]:
    """Experiments, newest first. Raises: Invalid at /limit or /cursor."""
    t = experiments.c
    query = sa.select(t.created_at, t.experiment_id, t.body)
    if program is not None:
        query = query.where(t.program == program)
    if state is not None:
        query = query.where(t.state == state)
    rows, following = page_of(conn, query, t.created_at, t.experiment_id, limit, cursor)
    return Page([decode(row.body, Experiment) for row in rows], following)


def append_decision(conn: sa.Connection, decision: Decision) -> None:
    """Latch a decision. Raises: Stale when this experiment has one with the same tick number already."""
    new = insert_new(
        conn,
        decisions,
        experiment_id=decision.experiment_id,
        tick=decision.tick,
        decision_id=decision.decision_id,
        body=encode(decision),
        created_at=decision.created_at,
    )
    if not new:
        raise Stale(f"experiment {decision.experiment_id} has a decision number {decision.tick} already")


def decisions_of(conn: sa.Connection, experiment_id: str) -> list[Decision]:
    """Every decision about an experiment, in the order taken; the next one's `tick` is one more than their number."""
    query = sa.select(decisions.c.body).where(decisions.c.experiment_id == experiment_id).order_by(decisions.c.tick)
    return [decode(body, Decision) for body in conn.scalars(query)]


def decisions_page(
    conn: sa.Connection, experiment_id: str, *, limit: int = 50, cursor: str | None = None
) -> Page[Decision]:
    """Decisions about an experiment, newest first. Raises: Invalid at /limit or /cursor."""
    t = decisions.c
    query = sa.select(t.created_at, t.decision_id, t.body).where(t.experiment_id == experiment_id)
    rows, following = page_of(conn, query, t.created_at, t.decision_id, limit, cursor)
    return Page([decode(row.body, Decision) for row in rows], following)


def append_level(conn: sa.Connection, level: Level) -> None:
    """Take the next step of a program's series. Raises: Stale when this t, or this experiment, has one already."""
    if not insert_new(conn, levels, **msgspec.structs.asdict(level)):
        raise Stale(f"step {level.t} of series {level.series} of program {level.program!r} is taken already")


def conclude_level(conn: sa.Connection, experiment_id: str, *, log_e: float | None, rejected: bool) -> None:
    """Write down how the test of an experiment ended. A/A experiments have no level, which is no error."""
    conn.execute(levels.update().where(levels.c.experiment_id == experiment_id).values(log_e=log_e, rejected=rejected))


def levels_of(conn: sa.Connection, program: str) -> list[Level]:
    """A program's levels, series by series and in the order they were drawn."""
    query = sa.select(levels).where(levels.c.program == program).order_by(levels.c.series, levels.c.t)
    return [Level(**row._asdict()) for row in conn.execute(query)]


def append_promotion(conn: sa.Connection, promotion: Promotion) -> None:
    """Write down a change of champion; the routing that carries it out is `routings.append_routing`."""
    conn.execute(promotions.insert().values(msgspec.structs.asdict(promotion)))


def promotions_of(conn: sa.Connection, program: str) -> list[Promotion]:
    """A program's promotions, newest first, the rolled-back ones included."""
    t = promotions.c
    query = sa.select(promotions).where(t.program == program).order_by(t.created_at.desc(), t.promotion_id.desc())
    return [Promotion(**row._asdict()) for row in conn.execute(query)]


def mark_rolled_back(conn: sa.Connection, promotion_id: str, at: int) -> None:
    """Take a promotion back. Raises: Stale when that was done already."""
    here = (promotions.c.promotion_id == promotion_id) & promotions.c.rolled_back_at.is_(None)
    if not conn.execute(promotions.update().where(here).values(rolled_back_at=at)).rowcount:
        raise Stale("this promotion was rolled back already")
