"""The drift tick: every program's matured predictions are shown to its detectors, and what they say is kept.

Reading and folding happen on a reader, in one snapshot; the new state, the alarms it raises and those that are over are
one transaction, with compare-and-set on the state. What the detectors are shown follows from the facts and the log of
routings alone, apart from the *turns* kept with the state: so `rederived` comes to the same state, bit for bit.

Counted are predictions of the arms of an experiment or holdback, and of the champion outside of one. A prediction that
an operator pinned to another variant counts nowhere, nor does a challenger's shadow, which nobody was served. What was
assigned to a variant that failed is its own error: the champion's answer in its place is no outcome of the champion.
"""

import math
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import msgspec

from experiments.assignment import Routing
from experiments.experiment import State
from experiments.facts import shadowed_id
from experiments.folding import Evidence, observe
from experiments.metrics import IMPLICIT, SOURCES, Metric
from experiments.quantities import SECOND, duration
from learning.compile_runs import CompileRun
from learning.definitions import DriftOptions, ProgramDefinition
from monitoring import signals
from monitoring.signals import Matured, Policy, ProgramDrift, Signal
from server.ratchet import Ratchet
from server.store import Connection
from server.store.blocks import kept_evidence
from server.store.compiles import last_run
from server.store.drifts import (
    BY_RUN,
    AlarmRaised,
    Fact,
    Hour,
    KeptWatch,
    Rule,
    Turn,
    Watched,
    close_alarm,
    facts_between,
    keep_watch,
    kept_watch,
    open_alarms,
    raise_alarm,
    reign_of,
)
from server.store.experiments import experiment as stored_experiment
from server.store.experiments import experiments_in
from server.traffic import Program
from server.trials.ticking import each_program

PAGE = 2_000
"""Predictions read at a time."""
PATIENCE = 2.0
"""Seconds one tick may take for a program before it keeps what it has; the next one goes on from there."""
HOUR = 3600 * SECOND
REMEMBERED = 7 * 24
"""Hours by which the traffic of a day is estimated."""

_OVER: tuple[State, ...] = ("concluded",)


class Seen(msgspec.Struct, frozen=True):
    """What one tick found out: the watch before and after, and the open alarms that are over, each with the reason."""

    before: KeptWatch | None
    after: Watched
    over: list[tuple[AlarmRaised, str]]

    @property
    def idle(self) -> bool:
        """Whether there is nothing to keep but that some time went by; once in an hour that is kept too."""
        if self.before is None or self.over or self.after.upto - self.before.body.upto > HOUR:
            return False
        return msgspec.structs.replace(self.before.body, upto=self.after.upto) == self.after


async def drift(ratchet: Ratchet) -> None:
    """Take every program's watch further. A failure concerns one program only; the next tick tries it again."""
    await each_program(ratchet, _watch, "drift_tick")


async def _watch(ratchet: Ratchet, program: Program) -> None:
    now = ratchet.now()
    seen = await ratchet.store.read(look, program.name, program.definition, ratchet.traffic.horizon(now))
    if seen.idle:
        return
    for alarm in await ratchet.store.write(keep, program.name, seen, now):
        ratchet.log.warning(
            "drift_noticed",
            program=program.name,
            variant=alarm.variant,
            signal=alarm.signal,
            score=alarm.reading.score,
            baseline=alarm.reading.baseline,
        )


def look(conn: Connection, program: str, definition: ProgramDefinition, horizon: int) -> Seen:
    """Take a program's watch as far as the facts before `horizon` (µs) allow; nothing is written."""
    before, reign, still_open = kept_watch(conn, program), reign_of(conn, program), open_alarms(conn, program)
    rule, options = rule_of(definition), definition.drift
    present, anew = _in_force(conn, program, before, reign, rule, options, horizon)
    over = [] if anew else _answered(conn, program, still_open)
    settled = _settled(present, still_open, [alarm for alarm, _ in over])
    if settled or options != present.turns[-1].options:
        present = turned(present, Turn(at=present.upto, options=options, acknowledged=settled))
    after = taken_in(conn, program, present, reign, horizon - rule.maturity, PATIENCE)
    raised = {(signal, alarm.at) for signal, alarm in signals.alarms(after.state).items()}
    done = {_key(alarm) for alarm, _ in over} | raised
    gone = [(alarm, anew or "its variant went off traffic") for alarm in still_open if _key(alarm) not in done]
    return Seen(before, after, over + gone)


def keep(conn: Connection, program: str, seen: Seen, now: int) -> list[AlarmRaised]:
    """Keep what a tick found out; returns the alarms that are new. Raises: Stale when another tick came first."""
    before = seen.before
    quiet = before is not None and before.body.state == seen.after.state
    keep_watch(conn, program, seen.after, before.updated_at if before and quiet else now, before=before)
    for alarm, why in seen.over:
        close_alarm(conn, alarm, now, why)
    return [alarm for alarm in _raised(program, seen.after, now) if raise_alarm(conn, alarm)]


def rederived(conn: Connection, program: str, kept: Watched) -> Watched:
    """The same watch from its opening and the facts; equal to `kept` unless those, or the arithmetic, have changed."""
    reign = reign_of(conn, program, kept.reign)
    first, *turns = kept.turns
    again = _opened(kept.rule, kept.reign, kept.since, kept.opening, kept.opening_hours, first.options)
    for turn in turns:
        again = turned(taken_in(conn, program, again, reign, turn.at), turn)
    return taken_in(conn, program, again, reign, kept.upto)


def rule_of(definition: ProgramDefinition) -> Rule:
    """What the program's scores mean now."""
    options, goal = definition.drift, definition.goal
    window = definition.experiments.resolve().outcome_window
    return Rule(
        goal=goal,
        metric=None if goal is None else _meaning(definition.metrics[goal]),
        maturity=window if options.maturity is None else duration(options.maturity),
        profile=options.profile,
    )


def _meaning(metric: Metric) -> Metric:
    """The metric without what only experiments ask for."""
    return msgspec.structs.replace(metric, margin=None)


def _in_force(
    conn: Connection,
    program: str,
    before: KeptWatch | None,
    reign: Sequence[Routing],
    rule: Rule,
    options: DriftOptions,
    horizon: int,
) -> tuple[Watched, str | None]:
    """The watch to go on with; and, where it begins anew, why: a new champion, or scores that mean something else."""
    champion, began = reign[0].champion, reign[0].created_at
    if before is not None and before.body.rule == rule and before.body.reign == reign[0].epoch:
        return before.body, None
    policy = _policy(options, (), 0)
    prior = _prior(conn, program, champion, rule)
    if before is None:
        opening = signals.begin(champion, prior, policy)
        return _opened(rule, reign[0].epoch, began, opening, (), options), "the watch began"
    if before.body.rule != rule:
        opening = signals.begin(champion, None, policy)
        return _opened(rule, reign[0].epoch, horizon, opening, (), options), "what a score means was changed"
    opening = signals.promoted(before.body.state, champion, prior, policy)
    since = max(began, before.body.upto)
    watch = _opened(rule, reign[0].epoch, since, opening, before.body.hours, options)
    return watch, f"{champion!r} is the champion now"


def _prior(conn: Connection, program: str, champion: str, rule: Rule) -> tuple[int, float] | None:
    """Number and sum of the champion's scores in the latest experiment it was in; None without one."""
    if rule.goal is None or rule.metric is None or not rule.metric.bounded:
        return None
    for experiment in reversed(experiments_in(conn, _OVER, program)):
        same = rule.goal == experiment.goal and _meaning(experiment.metrics[rule.goal]) == rule.metric
        kept = kept_evidence(conn, experiment.experiment_id, Evidence) if champion in experiment.arms else None
        if same and kept is not None:
            n, total = kept.body.tallies[champion].sums.get(rule.goal, (0, 0.0))
            return (n, min(max(n * rule.metric.score(total / n), 0.0), float(n))) if n else None
    return None


def _opened(
    rule: Rule, reign: int, since: int, opening: ProgramDrift, hours: tuple[Hour, ...], options: DriftOptions
) -> Watched:
    return Watched(
        rule=rule,
        reign=reign,
        since=since,
        opening=opening,
        opening_hours=hours,
        turns=(Turn(at=since, options=options),),
        upto=since,
        hours=hours,
        policy=_policy(options, hours, since // HOUR),
        state=opening,
    )


def turned(watched: Watched, turn: Turn) -> Watched:
    """The watch after a turn."""
    hour = (watched.state.cursor[0] if watched.state.cursor else watched.since) // HOUR
    state = watched.state
    if turn.acknowledged:
        state = signals.acknowledged(state, watched.policy, turn.acknowledged)
    policy = _policy(turn.options, watched.hours, hour)
    return msgspec.structs.replace(watched, turns=(*watched.turns, turn), state=state, policy=policy)


def _answered(conn: Connection, program: str, still_open: Sequence[AlarmRaised]) -> list[tuple[AlarmRaised, str]]:
    """The alarms that asked for a recompile which has ended without a promotion: they are lived with from now on."""
    run = last_run(conn, program)
    if run is None or (ended := _in_vain(conn, run)) is None:
        return []
    return [
        (alarm, f"{BY_RUN}{run.compile_id} {ended}")
        for alarm in still_open
        if alarm.signal == "score" and (run.alarm == alarm.raised_at or alarm.noticed_at <= run.created_at)
    ]


def _in_vain(conn: Connection, run: CompileRun) -> str | None:
    """How a run ended that brought no new champion; None while it may still."""
    if run.open:
        return None
    if run.state != "succeeded":
        return f"was {run.state}"
    if run.experiment_id is None:
        return None
    trial = stored_experiment(conn, run.experiment_id)
    return f"led to a trial that ended {trial.verdict}" if trial.verdict not in (None, "promote") else None


def _settled(watched: Watched, still_open: Sequence[AlarmRaised], over: Sequence[AlarmRaised]) -> tuple[Signal, ...]:
    """The signals whose alarm is raised in the state, and is on record as closed, or about to be."""
    remaining = {_key(alarm) for alarm in still_open} - {_key(alarm) for alarm in over}
    raised = signals.alarms(watched.state)
    return tuple(sorted(signal for signal, alarm in raised.items() if (signal, alarm.at) not in remaining))


def _key(alarm: AlarmRaised) -> tuple[Signal, int]:
    return alarm.signal, alarm.raised_at


def taken_in(
    conn: Connection, program: str, watched: Watched, reign: Sequence[Routing], end: int, patience: float = math.inf
) -> Watched:
    """The watch after the predictions before `end` (µs), or after as many as `patience` (seconds) allows."""
    until = time.monotonic() + patience
    rule, size = watched.rule, PAGE
    while watched.upto < end and time.monotonic() < until:
        facts = facts_between(
            conn,
            program,
            watched.upto,
            end,
            goal=rule.goal,
            sources=rule.metric.sources if rule.metric else SOURCES,
            maturity=rule.maturity,
            limit=size,
        )
        # A full page may end among predictions of one moment: those are left to the next one.
        upto = end if len(facts) < size else facts[-1].exposure.created_at
        page = [fact for fact in facts if fact.exposure.created_at < upto]
        size = PAGE if page or upto == end else 2 * size
        watched = msgspec.structs.replace(_shown(watched, page, reign), upto=upto)
    return watched


def _shown(watched: Watched, facts: Iterable[Fact], reign: Sequence[Routing]) -> Watched:
    """The watch after some predictions in order; by the hour, since the policy follows the traffic of those before."""
    for (hour, in_force), some in groupby(facts, lambda fact: _stretch(fact, reign)):
        routing = reign[in_force]
        counted = [
            matured(fact, watched.rule) for fact in some if fact.epoch >= reign[0].epoch and _counts(fact, routing)
        ]
        if counted:
            watched = _advanced(watched, counted, hour, routing)
    return watched


def _stretch(fact: Fact, reign: Sequence[Routing]) -> tuple[int, int]:
    """The hour a prediction was made in, and the place of the routing in force then."""
    at = fact.exposure.created_at
    return at // HOUR, max(bisect_right(reign, at, key=lambda routing: routing.created_at) - 1, 0)


def _counts(fact: Fact, routing: Routing) -> bool:
    """Whether a prediction says something about who serves: see the module."""
    if shadowed_id(fact.exposure.prediction_id) is not None:
        return False
    if fact.variant == routing.champion:
        return True
    return fact.experiment_id is not None and fact.variant in routing.split


def _advanced(watched: Watched, cohort: Sequence[Matured], hour: int, routing: Routing) -> Watched:
    """The watch after predictions of one hour and one routing."""
    state, hours, policy = watched.state, watched.hours, watched.policy
    if state.cursor is None or state.cursor[0] // HOUR != hour:
        hours = tuple(past for past in hours if past.number >= hour - REMEMBERED)
        policy = _policy(watched.turns[-1].options, hours, hour)
    for variant in state.seen.keys() - {routing.champion, *routing.split}:
        state = signals.withdrawn(state, variant)
    state = signals.advance(state, policy, cohort)
    return msgspec.structs.replace(watched, state=state, hours=_counted(hours, hour, cohort), policy=policy)


def _counted(hours: tuple[Hour, ...], number: int, cohort: Sequence[Matured]) -> tuple[Hour, ...]:
    """The hours with these predictions of the latest one."""
    made, labelled = len(cohort), sum(each.labelled for each in cohort)
    if hours and hours[-1].number == number:
        return (*hours[:-1], Hour(number, hours[-1].made + made, hours[-1].labelled + labelled))
    return (*hours, Hour(number, made, labelled))


def _policy(options: DriftOptions, hours: tuple[Hour, ...], hour: int) -> Policy:
    """How closely to watch in an hour, by the traffic of the week before it; nothing is known of the first one."""
    past = [each for each in hours if hour - REMEMBERED <= each.number < hour]
    days = (hour - past[0].number) / 24 if past else math.inf
    return Policy(
        tolerated_drop=options.tolerated_drop,
        false_alarm_every=duration(options.false_alarm_every),
        outcomes_per_day=sum(each.labelled for each in past) / days,
        predictions_per_day=sum(each.made for each in past) / days,
        profile=options.profile,
        min_outcomes=options.min_outcomes,
    )


def matured(fact: Fact, rule: Rule) -> Matured:
    """A prediction as the detectors see it: a score where the goal has one, and whether its outcome came in time."""
    seen, metric = fact.exposure, rule.metric
    said = {source: value for _, source, value, _ in seen.outcomes}
    reported = next((said[source] for source in metric.sources if source in said), None) if metric else None
    value = observe(metric, seen, reported) if metric and metric.bounded else None
    known = metric is not None and (metric.kind in IMPLICIT or (seen.failed and metric.expected == "all"))
    return Matured(
        prediction_id=seen.prediction_id,
        at=seen.created_at,
        variant=fact.variant,
        error=seen.failed,
        labelled=known or reported is not None,
        score=None if value is None or metric is None else metric.score(value),
        latency=seen.latency,
        cost=seen.cost,
    )


def _raised(program: str, watched: Watched, now: int) -> Iterator[AlarmRaised]:
    """The alarms that stand, as they are put on record."""
    readings = {(reading.variant, reading.signal): reading for reading in watched.readings}
    for signal, alarm in signals.alarms(watched.state).items():
        variant = alarm.arm or watched.state.champion
        yield AlarmRaised(
            program=program,
            variant=variant,
            signal=signal,
            raised_at=alarm.at,
            change_point=alarm.change_point,
            noticed_at=now,
            reading=readings[variant, signal],
        )
