"""Compile runs: asked for, claimed by one runner at a time, followed, ended.

A run is one row whose body is the `CompileRun`. Whoever works on it holds a lease in database time and a fence, a
number that grows with every claim: each write of a runner names the fence it was given, so that one that was suspended
and overtaken can change nothing any more. The row is locked while its body is replaced: an operator who cancels and a
runner that reports never undo each other's word.
"""

from collections.abc import Collection, Iterator, Sequence

import msgspec
import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy.exc import IntegrityError

from experiments.errors import Conflict, NotFound, Stale
from learning.compile_runs import OPEN, CompileRun, Event, RunState
from server.store.leases import database_now
from server.store.rows import Page, decode, encode, insert_new, page_of
from server.store.tables import compile_events, compiles


class Claim(msgspec.Struct, frozen=True):
    """A run with the right to work on it: who holds it, and the fence that every write must name."""

    run: CompileRun
    holder: str
    fence: int


class NumberedEvent(msgspec.Struct, frozen=True):
    """One event of a run; numbers count from 1."""

    number: int
    event: Event


def insert_run(conn: sa.Connection, run: CompileRun) -> None:
    """Ask for a run. Raises: Conflict naming the run of this program that has not ended, if there is one."""
    try:
        with conn.begin_nested():
            conn.execute(
                compiles.insert().values(
                    compile_id=run.compile_id,
                    program=run.program,
                    **_columns(run),
                    fence=0,
                    expires_at=0,
                    created_at=run.created_at,
                )
            )
    except IntegrityError:
        other = open_run(conn, run.program)
        which = f"run {other.compile_id} ({other.state})" if other else "another one"
        raise Conflict(
            f"program {run.program!r} is being compiled already, by {which}; let it end or cancel it"
        ) from None


def _columns(run: CompileRun) -> dict[str, object]:
    return {"state": run.state, "body": encode(run), "spent": run.spent, "finished_at": run.finished_at}


def compile_run(conn: sa.Connection, compile_id: str) -> CompileRun:
    """Raises: NotFound."""
    return _run(conn.scalar(sa.select(compiles.c.body).where(compiles.c.compile_id == compile_id)), compile_id)


def _run(body: str | None, compile_id: str) -> CompileRun:
    if body is None:
        raise NotFound(f"no compile run has the id {compile_id!r}")
    return decode(body, CompileRun)


def open_run(conn: sa.Connection, program: str) -> CompileRun | None:
    """The program's run that has not ended, of which there is at most one."""
    c = compiles.c
    body = conn.scalar(sa.select(c.body).where(c.program == program, c.state.in_(OPEN)))
    return None if body is None else decode(body, CompileRun)


def last_run(conn: sa.Connection, program: str, states: Collection[RunState] | None = None) -> CompileRun | None:
    """The program's newest run, of those in one of these states if any are named."""
    c = compiles.c
    query = sa.select(c.body).where(c.program == program)
    if states is not None:
        query = query.where(c.state.in_(states))
    body = conn.scalar(query.order_by(c.created_at.desc(), c.compile_id.desc()).limit(1))
    return None if body is None else decode(body, CompileRun)


def runs_answering(conn: sa.Connection, program: str, alarm: int) -> int:
    """How many runs of a program have answered the alarm of that moment (µs); one under way has not yet."""
    c = compiles.c
    bodies = conn.scalars(sa.select(c.body).where(c.program == program, c.state.not_in(OPEN), c.created_at >= alarm))
    return sum(decode(body, CompileRun).alarm == alarm for body in bodies)


def runs_page(
    conn: sa.Connection,
    *,
    program: str | None = None,
    state: RunState | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[CompileRun]:
    """Runs, newest first. Raises: Invalid at /limit or /cursor."""
    c = compiles.c
    query = sa.select(c.created_at, c.compile_id, c.body)
    if program is not None:
        query = query.where(c.program == program)
    if state is not None:
        query = query.where(c.state == state)
    rows, following = page_of(conn, query, c.created_at, c.compile_id, limit, cursor)
    return Page([decode(row.body, CompileRun) for row in rows], following)


def spent_since(conn: sa.Connection, program: str, since: int) -> int:
    """Picodollars that the program's runs asked for at `since` (µs) or later have spent so far."""
    c = compiles.c
    total = sa.select(sa.func.coalesce(sa.func.sum(c.spent), 0)).where(c.program == program, c.created_at >= since)
    return int(conn.scalar(total) or 0)


def free_run(conn: sa.Connection, *, automatic: bool = True) -> bool:
    """Whether there is a run to be claimed; see `claim_run`."""
    return next(_free(conn, automatic), None) is not None


def _free(conn: sa.Connection, automatic: bool) -> Iterator[tuple[sa.Row[str, int, str], CompileRun]]:
    """The runs that nobody works on, oldest first, with their rows."""
    c = compiles.c
    free = sa.select(c.compile_id, c.fence, c.body).where(c.state.in_(OPEN), c.expires_at <= database_now(conn))
    for row in conn.execute(free.order_by(c.created_at, c.compile_id)).all():
        run = decode(row.body, CompileRun)
        if automatic or run.reason == "operator" or run.state != "queued":
            yield row, run


def ended_runs(conn: sa.Connection, ids: Collection[str]) -> set[str]:
    """Those of these runs that have ended, or never were."""
    c = compiles.c
    still = conn.scalars(sa.select(c.compile_id).where(c.compile_id.in_(ids), c.state.in_(OPEN)))
    return {*ids} - {*still}


def claim_run(conn: sa.Connection, holder: str, lease: int, now: int, *, automatic: bool = True) -> Claim | None:
    """Take the oldest run that nobody works on, for `lease` µs of database time; None when there is none.

    It was never begun, or its runner has not renewed its lease. `now` (µs) is when this attempt begins. Unless
    `automatic`, what no person asked for is not begun; what was begun goes on.
    """
    c = compiles.c
    for row, found in _free(conn, automatic):
        run = replace(found, state="running", attempt=found.attempt + 1, started_at=found.started_at or now)
        values = {**_columns(run), "holder": holder, "fence": row.fence + 1, "expires_at": database_now(conn) + lease}
        # The body is as it was read: had anybody changed it since, the next look would find it again.
        here = (c.compile_id == row.compile_id) & (c.fence == row.fence) & (c.body == row.body)
        if conn.execute(compiles.update().where(here).values(values)).rowcount:
            return Claim(run, holder, row.fence + 1)
    return None


def release_runs(conn: sa.Connection) -> None:
    """Let go of every run; for a server that is alone here, at its start: who held them is dead."""
    conn.execute(compiles.update().where(compiles.c.state.in_(OPEN)).values(expires_at=0))


def renew_run(
    conn: sa.Connection, claim: Claim, lease: int, events: Sequence[NumberedEvent] = (), run: CompileRun | None = None
) -> CompileRun:
    """Keep the lease, with what happened since the last time, and replace what is told of the run by `run` if given.

    Returns the run as it stands: `cancel_requested` may have been set. Raises: Stale when somebody else holds it.
    """
    present = held_run(conn, claim)
    changed = replace(run, cancel_requested=present.cancel_requested) if run is not None else present
    for numbered in events:
        _append(conn, claim.run.compile_id, numbered)
    if events:
        latest = events[-1].event
        changed = replace(changed, progress=latest.progress, spent=max(changed.spent, latest.spent))
    _put(conn, changed, expires_at=database_now(conn) + lease)
    return changed


def release_run(conn: sa.Connection, claim: Claim, *, after: int, failed: bool) -> None:
    """Give the run back, to be claimed again once `after` µs have passed. An attempt that has not `failed` is none.

    Raises: Stale when somebody else holds it.
    """
    present = held_run(conn, claim)
    if failed:
        changed = replace(present, failures=present.failures + 1)
    else:
        changed = replace(present, attempt=present.attempt - 1)
    _put(conn, changed, expires_at=database_now(conn) + after)


def finish_run(conn: sa.Connection, claim: Claim, run: CompileRun) -> CompileRun:
    """End the run as `run` says; as cancelled if that was asked for, since whoever asked was told that it would end.

    Raises: Stale when somebody else holds it, or it has ended.
    """
    present = held_run(conn, claim)
    ended = replace(run, cancel_requested=present.cancel_requested, spent=max(run.spent, present.spent))
    if present.cancel_requested:
        ended = replace(ended, state="cancelled", variant=None, error=None)
    _put(conn, ended, expires_at=0)
    return ended


def request_cancel(conn: sa.Connection, compile_id: str, now: int) -> CompileRun:
    """Ask for the end of a run: one that nobody works on ends at once, another as soon as its runner hears of it.

    Raises: NotFound; Conflict when it has ended.
    """
    run, c = _locked(conn, compile_id), compiles.c
    if not run.open:
        raise Conflict(f"run {compile_id} has ended already: it {_ENDED[run.state]}")
    changed = replace(run, cancel_requested=True)
    leased = sa.select(c.compile_id).where(c.compile_id == compile_id, c.expires_at > database_now(conn))
    if conn.scalar(leased) is None:
        changed = replace(changed, state="cancelled", finished_at=now)
    _put(conn, changed)
    return changed


_ENDED: dict[RunState, str] = {
    "succeeded": "succeeded",
    "rejected": "was rejected",
    "failed": "failed",
    "cancelled": "was cancelled",
}


def change_ended(conn: sa.Connection, before: CompileRun, after: CompileRun) -> None:
    """Replace what is told of a run that has ended. Raises: Stale when it is not as in `before` any more."""
    if _locked(conn, before.compile_id) != before:
        raise Stale(f"run {before.compile_id} was changed by somebody else")
    _put(conn, after)


def held_run(conn: sa.Connection, claim: Claim) -> CompileRun:
    """The run as it stands, locked. Raises: Stale unless it is open and the claim is the latest."""
    c = compiles.c
    here = sa.select(c.body).where(
        c.compile_id == claim.run.compile_id, c.fence == claim.fence, c.holder == claim.holder, c.state.in_(OPEN)
    )
    body = conn.scalar(here.with_for_update())
    if body is None:
        raise Stale(f"run {claim.run.compile_id} is in other hands, or has ended; this runner may not write to it")
    return decode(body, CompileRun)


def _locked(conn: sa.Connection, compile_id: str) -> CompileRun:
    query = sa.select(compiles.c.body).where(compiles.c.compile_id == compile_id)
    return _run(conn.scalar(query.with_for_update()), compile_id)


def _put(conn: sa.Connection, run: CompileRun, **columns: object) -> None:
    here = compiles.c.compile_id == run.compile_id
    conn.execute(compiles.update().where(here).values(**_columns(run), **columns))


def _append(conn: sa.Connection, compile_id: str, numbered: NumberedEvent) -> None:
    """Keep an event, once: a runner that does not know whether it was stored sends it again."""
    insert_new(
        conn,
        compile_events,
        compile_id=compile_id,
        number=numbered.number,
        body=encode(numbered.event),
        at=numbered.event.at,
    )


def events_after(conn: sa.Connection, compile_id: str, number: int, limit: int = 500) -> list[NumberedEvent]:
    """The events of a run after the one with this number (0: from the first), in order."""
    e = compile_events.c
    query = sa.select(e.number, e.body).where(e.compile_id == compile_id, e.number > number)
    rows = conn.execute(query.order_by(e.number).limit(limit))
    return [NumberedEvent(row.number, decode(row.body, Event)) for row in rows]


def purge_runs(conn: sa.Connection, before: int) -> int:
    """Delete what runs that ended before `before` (µs) told of themselves, and which predictions they learned from.

    Both may quote users. States, scores, spend and verdicts stay. A few runs at a time; returns how many rows.
    """
    c, e = compiles.c, compile_events.c
    old = sa.select(c.compile_id).where(c.state.not_in(OPEN), c.finished_at < before)
    told = sa.exists().where(e.compile_id == c.compile_id)
    some = conn.scalars(old.where(told | c.body.contains(_WITH_QUALITY)).order_by(c.finished_at).limit(20)).all()
    purged = conn.execute(compile_events.delete().where(e.compile_id.in_(some))).rowcount
    for compile_id in some:
        run = _locked(conn, compile_id)
        if run.quality:
            _put(conn, replace(run, quality={}))
            purged += 1
    return purged


_WITH_QUALITY = '"quality":{"'
"""What stands in the body of a run whose quality report is still there."""


def last_event_number(conn: sa.Connection, compile_id: str) -> int:
    """The number of a run's latest event; 0 before the first."""
    query = sa.select(sa.func.max(compile_events.c.number)).where(compile_events.c.compile_id == compile_id)
    return int(conn.scalar(query) or 0)
