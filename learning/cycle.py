"""When to recompile: from the facts about a program to one of three answers, each with a reason for people.

What asks for a run is an operator, a drift alarm that no run has answered yet or answered in vain, or the schedule, in
this order. One candidate in a few is no good, so a fall that lasts is answered again, each time after twice the rest.
What may stand in its way depends on who asks (the learning page has the table): a run under way, an experiment and the
month's budget stop everybody; an operator is not bound by freezing, suspended labels, cool-down or a minimum of fresh
labels; a holdback, which the next experiment would end, only keeps a scheduled run waiting.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from experiments.quantities import SECOND, dollars, duration
from learning.compile_runs import Reason
from learning.definitions import LearningOptions

MOST_COOLDOWNS = 8
"""The longest rest between two answers to one alarm."""


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm of the champion's score: when it rose, and when the change is taken to have happened.

    `answer` is the latest run that answered it and `tries` how many did. `lasting`: they have ended without a
    promotion, and the score is still below what it was held to before.
    """

    at: int
    since: int
    answer: str | None = None
    tries: int = 0
    lasting: bool = False

    @property
    def asks(self) -> bool:
        """Whether it asks for a run."""
        return self.answer is None or self.lasting


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about one program that a plan depends on. Times in µs, money in picodollars.

    `obstacle` says why fresh answers cannot be scored (`scoring.rescorable`), if so. `due` is the last moment of the
    schedule that no run has followed, `next_due` the first one to come. Labels are counted over distinct predictions:
    `labels_since_change` those made since the alarm's change point, `labels_since_run` since the last run began.
    `running` and `experiment` name the run under way, and the experiment that runs or is paused.
    `labels_shifted` is when the alarm of the share of labelled predictions rose. `spent` is all runs' of this month
    (UTC).
    """

    requested: bool = False
    obstacle: str | None = None
    alarm: Alarm | None = None
    due: int | None = None
    next_due: int | None = None
    labels_since_change: int = 0
    labels_since_run: int = 0
    running: str | None = None
    experiment: str | None = None
    holdback: bool = False
    frozen: bool = False
    labels_shifted: int | None = None
    last_finished: int | None = None
    spent: int = 0


class Compile(msgspec.Struct, frozen=True, kw_only=True):
    """Begin a run now, on predictions made since `since`. It answers `alarm`, and may cost `cost` (None: no bound)."""

    trigger: Reason
    reason: str
    since: int | None
    alarm: int | None
    cost: int | None


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """A run is called for, and something is in its way: until a known moment, or None."""

    reason: str
    until: int | None = None


class Skip(msgspec.Struct, frozen=True):
    """No run is called for, or none is possible."""

    reason: str


def plan(situation: Situation, options: LearningOptions, now: int) -> Compile | Wait | Skip:
    """What to do about a program at `now` (µs)."""
    trigger, asked = _trigger(situation, options)
    if trigger is None:
        return Skip(asked)
    if situation.obstacle is not None:
        return Skip(f"no answer can be scored: {situation.obstacle}")
    waiting = next(_in_the_way(trigger, situation, options, now), None)
    if waiting is not None:
        return msgspec.structs.replace(waiting, reason=f"waiting: {waiting.reason} ({asked})")
    open_alarm = _open_alarm(situation)
    return Compile(
        trigger=trigger,
        reason=asked,
        since=open_alarm.since if open_alarm else None,
        alarm=open_alarm.at if open_alarm else None,
        cost=min((bound for bound in (options.budget, _left(situation, options)) if bound is not None), default=None),
    )


def _trigger(situation: Situation, options: LearningOptions) -> tuple[Reason | None, str]:
    """Who asks for a run, and the words for it; nobody, and why."""
    alarm = _open_alarm(situation)
    if situation.requested:
        return "operator", "asked for by an operator"
    if alarm is not None and "drift" in options.on:
        again = f", still unanswered after {alarm.tries} runs" if alarm.tries > 1 else ""
        again = f", which run {alarm.answer} did not answer" if alarm.tries == 1 else again
        return "drift", f"drift alarm of {_moment(alarm.at)}{again}"
    if situation.due is not None and "schedule" in options.on:
        return "schedule", f"scheduled for {_moment(situation.due)}"
    if alarm is not None:
        return None, f"drift alarm of {_moment(alarm.at)}: `learning.on` does not name drift, so a person must ask"
    if not options.on:
        return None, "recompiled by hand only: `learning.on` is empty"
    return None, " and ".join(_nothing_due(situation, options))


def _nothing_due(situation: Situation, options: LearningOptions) -> Iterator[str]:
    if "drift" in options.on:
        answered = situation.alarm.answer if situation.alarm else None
        yield f"run {answered} has answered the drift alarm" if answered else "no drift alarm"
    if "schedule" in options.on:
        yield "the schedule is not due" + (f" before {_moment(situation.next_due)}" if situation.next_due else "")


def _open_alarm(situation: Situation) -> Alarm | None:
    alarm = situation.alarm
    return alarm if alarm is not None and alarm.asks else None


def _in_the_way(trigger: Reason, situation: Situation, options: LearningOptions, now: int) -> Iterator[Wait]:
    """Everything that forbids the run, what a reader should know of first coming first."""
    if situation.running is not None:
        yield Wait(reason=f"run {situation.running} is under way")
    if situation.experiment is not None:
        yield Wait(reason=f"experiment {situation.experiment} must end first")
    if trigger == "schedule" and situation.holdback:
        yield Wait(reason="the holdback of the last promotion must end first")
    if trigger != "operator":
        yield from _about_automatic_runs(situation, options, now)
    if options.monthly_budget is not None and situation.spent >= options.monthly_budget:
        budget, renewed = dollars(options.monthly_budget), _next_month(now)
        spent = f"the month's budget of ${budget} (`monthly_budget_usd`) is used up"
        yield Wait(reason=f"{spent}, until {_moment(renewed)}", until=renewed)
    if options.budget == 0:
        yield Wait(reason="`budget_usd` is 0, which allows nothing")


def _about_automatic_runs(situation: Situation, options: LearningOptions, now: int) -> Iterator[Wait]:
    if situation.frozen:
        yield Wait(reason="every automatic act is frozen, until `ratchet unfreeze`")
    if situation.labels_shifted is not None:
        settled = situation.labels_shifted + duration(options.cooldown)
        if now < settled:
            yield Wait(
                reason="another share of predictions gets labels than before "
                f"(alarm of {_moment(situation.labels_shifted)}), and those may not speak for all: "
                f"left to people until {_moment(settled)}, when one cool-down has passed",
                until=settled,
            )
    alarm = _open_alarm(situation)
    if situation.last_finished is not None:
        rested = situation.last_finished + duration(options.cooldown) * _patience(alarm)
        if now < rested:
            yield Wait(reason=f"cool-down after the last run, until {_moment(rested)}", until=rested)
    have = situation.labels_since_change if alarm else situation.labels_since_run
    if have < options.min_fresh_labels:
        since = f"the change on {_moment(alarm.since)}" if alarm else "the last run"
        yield Wait(reason=f"{have} of {options.min_fresh_labels} fresh labels since {since}")


def _patience(alarm: Alarm | None) -> int:
    """How many cool-downs to rest: what several runs have not mended may be beyond mending."""
    return min(2 ** max(0, alarm.tries - 1), MOST_COOLDOWNS) if alarm else 1


def _left(situation: Situation, options: LearningOptions) -> int | None:
    """Picodollars left of the month's budget; None when there is none."""
    return None if options.monthly_budget is None else max(0, options.monthly_budget - situation.spent)


def _next_month(now: int) -> int:
    today = datetime.fromtimestamp(now // SECOND, UTC)
    first = datetime(today.year + today.month // 12, today.month % 12 + 1, 1, tzinfo=UTC)
    return int(first.timestamp()) * SECOND


def _moment(at: int) -> str:
    """Such as 12 Nov 14:03 UTC."""
    moment = datetime.fromtimestamp(at // SECOND, UTC)
    return f"{moment.day} {moment:%b %H:%M} UTC"
