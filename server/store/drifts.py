"""How programs are watched for drift: the state of every program's detectors, its alarms, and the facts they are fed.

Facts are read in the order of the predictions up to a stated moment, never "since the last id": a replay of the same
stretch meets the same rows.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from experiments.assignment import Routing
from experiments.errors import Stale
from experiments.facts import Exposure, shadow_id
from experiments.metrics import Metric, Source
from learning.definitions import DriftOptions
from monitoring import signals
from monitoring.signals import Policy, ProgramDrift, Reading, Signal, Status
from server.store.rows import decode, encode, fitting, insert_new
from server.store.tables import alarms, contents, drifts, outcomes, predictions, routings

MOST_TEXT = 8 * 2**20
"""Characters of the inputs of one sample at most."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What a score means; under another rule scores are not comparable. `maturity` in µs; no `goal`: no score."""

    goal: str | None
    metric: Metric | None
    maturity: int
    profile: Literal["default", "sensitive"]


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided about the watch, which no fact tells: from predictions of `at` (µs) on.

    `options` are those in force from then on, `acknowledged` the signals whose alarms are lived with.
    """

    at: int
    options: DriftOptions
    acknowledged: tuple[Signal, ...] = ()


class Hour(msgspec.Struct, frozen=True, array_like=True):
    """The predictions made in one hour since the epoch, and how many of them were labelled in time."""

    number: int
    made: int
    labelled: int


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """One program's watch since its champion took over, or its scores came to mean something else.

    It began with `opening` at routing epoch `reign` and with the predictions of `since` (µs); those up to `upto` are
    taken in. `hours` are those of the last week; the `policy` in force follows from them.
    """

    rule: Rule
    reign: int
    since: int
    opening: ProgramDrift
    opening_hours: tuple[Hour, ...]
    turns: tuple[Turn, ...]
    upto: int
    hours: tuple[Hour, ...]
    policy: Policy
    state: ProgramDrift

    @property
    def readings(self) -> list[Reading]:
        """Every signal of every arm."""
        return signals.readings(self.state, self.policy)

    @property
    def status(self) -> Status:
        """An alarm, or one that is building, wherever it is; else what is said of the champion's score."""
        said = {(reading.variant, reading.signal): reading.status for reading in self.readings}
        worst = next((status for status in _WORST_FIRST if status in said.values()), None)
        return worst or said.get((self.state.champion, "score"), "warming")


_WORST_FIRST: tuple[Status, ...] = ("alarm", "building")


class KeptWatch(msgspec.Struct, frozen=True):
    """A program's watch as stored; `version` counts its changes, the last of them at `updated_at` (µs)."""

    version: int
    body: Watched
    updated_at: int


BY_RUN = "compile run "
"""What `closed_by` begins with where a run closed the alarm that it did not answer."""


class AlarmRaised(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm about a variant: raised by the prediction of `raised_at`, fallen since that of `change_point` (µs).

    `noticed_at` is when the server found out; `reading` what was read then. It is open until something closes it.
    One that a run closed may be answered again, as the fall it told of may last.
    """

    program: str
    variant: str
    signal: Signal
    raised_at: int
    change_point: int
    noticed_at: int
    reading: Reading
    closed_at: int | None = None
    closed_by: str | None = None

    @property
    def unanswered(self) -> bool:
        """Whether a run that brought nothing has closed it, and nobody has decided to live with it."""
        return self.closed_by is not None and self.closed_by.startswith(BY_RUN)


class Fact(msgspec.Struct, frozen=True):
    """One prediction as the detectors need it: `exposure` holds the outcomes of the goal that came in time."""

    variant: str
    epoch: int
    experiment_id: str | None
    exposure: Exposure


class Sample(msgspec.Struct, frozen=True):
    """Inputs of predictions made from `since` to `until` (µs, both included; None: there are none)."""

    since: int | None
    until: int | None
    inputs: list[dict[str, Any]]


def kept_watch(conn: sa.Connection, program: str) -> KeptWatch | None:
    """A program's watch; None before its first tick."""
    return watched_programs(conn, program).get(program)


def watched_programs(conn: sa.Connection, program: str | None = None) -> dict[str, KeptWatch]:
    """Every program's watch, or that of one, by name.

    One that another version kept and this one cannot read is left out: it begins again, from the facts.
    """
    query = sa.select(drifts) if program is None else sa.select(drifts).where(drifts.c.program == program)
    found = {}
    for row in conn.execute(query):
        with suppress(msgspec.MsgspecError):
            found[row.program] = KeptWatch(row.version, decode(row.body, Watched), row.updated_at)
    return found


def drift_statuses(conn: sa.Connection, program: str | None = None) -> dict[str, Status]:
    """What is to be said of every program, or of one; those without a watch are left out."""
    return {name: kept.body.status for name, kept in watched_programs(conn, program).items()}


def keep_watch(conn: sa.Connection, program: str, body: Watched, at: int, *, before: KeptWatch | None) -> None:
    """Replace the watch that was `before` (None: there was none). Raises: Stale when another tick came first."""
    if before is None:
        if program not in watched_programs(conn, program):  # there is none, or one that cannot be read
            conn.execute(drifts.delete().where(drifts.c.program == program))
        done = insert_new(conn, drifts, program=program, version=1, body=encode(body), updated_at=at)
    else:
        here = (drifts.c.program == program) & (drifts.c.version == before.version)
        values = {"version": before.version + 1, "body": encode(body), "updated_at": at}
        done = conn.execute(drifts.update().where(here).values(values)).rowcount == 1
    if not done:
        raise Stale(f"the watch over program {program!r} was taken further by another process")


def facts_between(
    conn: sa.Connection,
    program: str,
    start: int,
    end: int,
    *,
    goal: str | None,
    sources: Sequence[Source],
    maturity: int,
    limit: int,
) -> list[Fact]:
    """A program's first predictions in [start, end) µs, in their order.

    Each with the outcomes of `goal` that were received within `maturity` µs of it. Shadows are among them.
    """
    p, o = predictions.c, outcomes.c
    here = (
        sa.select(p.prediction_id, p.created_at, p.epoch, p.experiment_id, p.assigned_variant, p.status)
        .add_columns(p.latency, p.assigned_cost, p.assigned_tokens)
        .where(p.program == program, p.created_at >= start, p.created_at < end)
        .order_by(p.created_at, p.prediction_id)
        .limit(limit)
        .subquery()
    )
    heard: dict[str, list[tuple[str, Source, float, int]]] = {}
    query = sa.select(o.prediction_id, o.metric, o.source, o.value, o.received_at).join(
        here, here.c.prediction_id == o.prediction_id
    )
    in_time = query.where(
        o.metric == goal, o.source.in_(sources), o.received_at < here.c.created_at + sa.literal(maturity, sa.BigInteger)
    )
    for row in conn.execute(in_time.order_by(o.prediction_id, o.source)) if goal else ():
        heard.setdefault(row.prediction_id, []).append((row.metric, row.source, row.value, row.received_at))
    rows = conn.execute(sa.select(here).order_by(here.c.created_at, here.c.prediction_id))
    return [_fact(row, heard) for row in rows]


def _fact(row: sa.Row[Any], heard: Mapping[str, list[tuple[str, Source, float, int]]]) -> Fact:
    exposure = Exposure(
        prediction_id=row.prediction_id,
        created_at=row.created_at,
        failed=row.status != "ok",
        latency=row.latency,
        cost=row.assigned_cost,
        tokens=row.assigned_tokens,
        outcomes=tuple(heard.get(row.prediction_id, ())),
    )
    return Fact(row.assigned_variant, row.epoch, row.experiment_id, exposure)


def input_samples(conn: sa.Connection, program: str, since: int, size: int) -> tuple[Sample, Sample]:
    """The first `size` inputs from `since` (µs) on that are still kept, and the latest; half each where they meet.

    Of large inputs fewer: no more than make `MOST_TEXT` on either side.
    """
    p, c = predictions.c, contents.c
    length = sa.func.length(c.input).label("size")
    kept = sa.select(p.created_at, p.prediction_id, length).join(contents, c.prediction_id == p.prediction_id)
    here = kept.where(p.program == program, p.created_at >= since, ~p.prediction_id.endswith(shadow_id("")))
    first = conn.execute(here.order_by(p.created_at, p.prediction_id).limit(size)).all()
    latest = conn.execute(here.order_by(p.created_at.desc(), p.prediction_id.desc()).limit(size)).all()
    if len(first) < size or latest[-1] <= first[-1]:
        everything = sorted({*first, *latest})
        middle = len(everything) // 2
        first, latest = everything[:middle], everything[middle:][::-1]
    return _sample(conn, first), _sample(conn, latest)


def _sample(conn: sa.Connection, rows: Sequence[Any]) -> Sample:
    c = contents.c
    some = fitting(rows, MOST_TEXT)
    times = sorted(row.created_at for row in some)
    ids = [row.prediction_id for row in some]
    found = conn.scalars(sa.select(c.input).where(c.prediction_id.in_(ids)).order_by(c.prediction_id))
    inputs = [decode(written, dict[str, Any]) for written in found]
    return Sample(times[0], times[-1], inputs) if times else Sample(None, None, [])


def reign_of(conn: sa.Connection, program: str, first: int | None = None) -> list[Routing]:
    """The routings of a champion, oldest first: of the one in force, or of the one who took over with epoch `first`.

    A variant that comes back begins another reign.
    """
    r = routings.c
    query = sa.select(r.body).where(r.program == program, r.epoch >= (first or 0))
    ordered = query.order_by(r.epoch.desc() if first is None else r.epoch)
    found: list[Routing] = []
    for body in conn.scalars(ordered):
        routing = decode(body, Routing)
        if found and routing.champion != found[-1].champion:
            break
        found.append(routing)
    return found[::-1] if first is None else found


def raise_alarm(conn: sa.Connection, raised: AlarmRaised) -> bool:
    """Write down an alarm; False when it is on record already."""
    return insert_new(
        conn,
        alarms,
        program=raised.program,
        variant=raised.variant,
        signal=raised.signal,
        raised_at=raised.raised_at,
        change_point=raised.change_point,
        body=encode(raised),
        closed_at=None,
        closed_by=None,
    )


def live_with(conn: sa.Connection, alarm: AlarmRaised, at: int, by: str) -> None:
    """Say at `at` (µs) who has decided to live with an alarm, be it open or closed."""
    a = alarms.c
    here = (a.program == alarm.program) & (a.variant == alarm.variant) & (a.signal == alarm.signal)
    conn.execute(alarms.update().where(here, a.raised_at == alarm.raised_at).values(closed_at=at, closed_by=by))


def close_alarm(conn: sa.Connection, alarm: AlarmRaised, at: int, by: str) -> bool:
    """Say at `at` (µs) why an alarm is over; False when it was closed already."""
    a = alarms.c
    here = (a.program == alarm.program) & (a.variant == alarm.variant) & (a.signal == alarm.signal)
    still = (a.raised_at == alarm.raised_at) & a.closed_at.is_(None)
    return bool(conn.execute(alarms.update().where(here, still).values(closed_at=at, closed_by=by)).rowcount)


def open_alarms(conn: sa.Connection, program: str) -> list[AlarmRaised]:
    """A program's alarms that nothing has closed, oldest first."""
    a = alarms.c
    query = sa.select(alarms).where(a.program == program, a.closed_at.is_(None))
    return [_alarm(row) for row in conn.execute(query.order_by(a.raised_at, a.variant, a.signal))]


def alarms_of(conn: sa.Connection, program: str, limit: int = 50) -> list[AlarmRaised]:
    """A program's latest alarms, newest first."""
    a = alarms.c
    query = sa.select(alarms).where(a.program == program).order_by(a.raised_at.desc(), a.variant, a.signal)
    return [_alarm(row) for row in conn.execute(query.limit(limit))]


def _alarm(row: sa.Row[Any]) -> AlarmRaised:
    raised = decode(row.body, AlarmRaised)
    return msgspec.structs.replace(raised, closed_at=row.closed_at, closed_by=row.closed_by)
