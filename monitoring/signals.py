"""What is watched about a program: its score, its label share, its errors, latency and cost, arm by arm.

The monitor is handed *matured* predictions: those older than the time after which labels are taken as complete, in the
order in which they were made. What is late counts in metrics and not here, so a label that takes longer for wrong
answers than for right ones changes nothing; fed in the order of arrival it raises an alarm in 95 of 100 cases.

A fall of the score is what asks for a recompile. One of the label share says that outcomes can no longer be compared,
and suspends recompiles. Errors, latency and cost are shown, and alarm people.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal, get_args

import msgspec

from experiments.quantities import duration
from monitoring import design, drift, ranks
from monitoring.arms import Arm
from monitoring.design import Design, Profile
from monitoring.drift import Alarm, Detector, Outcome
from monitoring.ranks import Reference

Signal = Literal["score", "label_share", "errors", "latency", "latency_tail", "cost", "cost_tail"]
Status = Literal["warming", "ok", "building", "alarm"]
Measure = Literal["latency", "cost"]

BUILDING = 0.7
"""The evidence ratio from which an alarm is said to be building."""
LEAST_RUN_LENGTH = 1e4
"""Outcomes between two false alarms that no program is promised less than."""
TOLERATED_ERRORS = 0.01
"""The share of predictions that may fail beyond what always did, as the error guardrail of experiments has it."""
MOST_ARMS = 8
"""Beyond these the arm that has been silent longest, the champion aside, is forgotten."""
_MEASURES: dict[Signal, Measure] = {
    "latency": "latency",
    "latency_tail": "latency",
    "cost": "cost",
    "cost_tail": "cost",
}
_TAILS = ("latency_tail", "cost_tail")
_DAY = duration("1d")


class Matured(msgspec.Struct, frozen=True, kw_only=True):
    """One prediction that has matured, as the monitor sees it.

    `at` is when it was made, in µs; `variant` the assigned one. `labelled`: the goal's outcome came in time; `score` is
    its value on [0, 1] with 1 as the best, else None. `latency` in µs, `cost` in picodollars, None if unpriced.
    """

    prediction_id: str
    at: int
    variant: str
    error: bool
    labelled: bool
    score: float | None
    latency: int
    cost: int | None

    def __post_init__(self) -> None:
        if self.score is not None and not 0 <= self.score <= 1:
            raise ValueError(f"score: {self.score!r} of {self.prediction_id} is not between 0 and 1")

    @property
    def place(self) -> tuple[int, str]:
        """Where it stands in the order of predictions."""
        return self.at, self.prediction_id


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How closely a program is watched.

    `outcomes_per_day` (labelled) and `predictions_per_day` turn `false_alarm_every` (µs) into outcomes. A changed
    policy holds from the next prediction on; a null that was reached before stays.
    """

    tolerated_drop: float = 0.02
    false_alarm_every: int = 90 * _DAY
    outcomes_per_day: float = 0.0
    predictions_per_day: float | None = None
    profile: Profile = "default"
    min_outcomes: int = 300

    def __post_init__(self) -> None:
        if not 0 <= self.tolerated_drop < 0.5:
            raise ValueError(f"tolerated_drop: {self.tolerated_drop!r} is not at least 0 and below 0.5")
        if self.false_alarm_every <= 0:
            raise ValueError("false_alarm_every must be above 0")
        if not (0 <= self.outcomes_per_day < math.inf and 0 <= (self.predictions_per_day or 0) < math.inf):
            raise ValueError("outcomes_per_day and predictions_per_day are finite and at least 0")
        if self.min_outcomes < 1:
            raise ValueError("min_outcomes must be at least 1")


class Watch(msgspec.Struct, frozen=True):
    """One signal: a detector of falls, and one of rises where those matter too."""

    falls: Detector = Detector()
    rises: Detector | None = None

    @property
    def alarm(self) -> Alarm | None:
        """The alarm that is raised, the earlier one if both sides have raised theirs."""
        raised = [side.alarm for side in (self.falls, self.rises) if side and side.alarm]
        return min(raised, key=lambda alarm: alarm.at, default=None)

    def fold(self, design: Design, outcomes: Sequence[Outcome], newcomers: Mapping[str, Arm]) -> "Watch":
        """The watch after more outcomes; see `Detector.fold`."""
        falls = self.falls.fold(design, outcomes, newcomers)
        if self.rises is None:
            return Watch(falls)
        return Watch(falls, self.rises.fold(design, [(arm, at, 1.0 - y) for arm, at, y in outcomes]))

    def each(self, change: Callable[[Detector], Detector]) -> "Watch":
        """The watch with both sides changed alike."""
        return Watch(change(self.falls), self.rises and change(self.rises))


class ProgramDrift(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known about one program, up to `cursor`; stored as JSON and read back the same, bit for bit.

    `seen` tells when each arm's last prediction was made; `references` holds every arm's first latencies and costs.
    """

    champion: str
    cursor: tuple[int, str] | None = None
    seen: dict[str, int]
    watches: dict[Signal, Watch]
    references: dict[Measure, dict[str, Reference]] = {}


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One signal of one variant as it is shown.

    `score` is the mean of the last 500, `baseline` the mean of all that was learned from, `null_score` what is bet
    against (for latency and cost all three are scores by rank: below ½ is slower or dearer than the reference).
    `outcomes` are those seen. `change_point` and `alarm_at` (µs) are there under an alarm; `floor` is the null that was
    given up when an alarm was acknowledged.
    """

    variant: str
    signal: Signal
    status: Status
    evidence_ratio: float
    score: float | None
    baseline: float | None
    null_score: float | None
    outcomes: int
    change_point: int | None
    alarm_at: int | None
    floor: float | None = None


def designs(policy: Policy) -> dict[Signal, Design]:
    """How each signal is watched under the policy."""
    score = _base(policy, policy.outcomes_per_day)
    every = _base(policy, policy.predictions_per_day or policy.outcomes_per_day)
    share = msgspec.structs.replace(every, run_length=2 * every.run_length)  # two sides, each half as often wrong
    rank, tail = ranks.rank_design(every, policy.tolerated_drop), ranks.tail_design(every)
    errors = msgspec.structs.replace(
        every, tolerated=TOLERATED_ERRORS, least=TOLERATED_ERRORS, ceiling=1 - TOLERATED_ERRORS
    )
    return {
        "score": score,
        "label_share": share,
        "errors": errors,
        "latency": rank,
        "latency_tail": tail,
        "cost": rank,
        "cost_tail": tail,
    }


def _base(policy: Policy, per_day: float) -> Design:
    run_length = max(LEAST_RUN_LENGTH, per_day * policy.false_alarm_every / _DAY)
    return design.of(
        policy.profile,
        run_length=run_length,
        tolerated=policy.tolerated_drop,
        min_outcomes=policy.min_outcomes,
    )


def begin(champion: str, prior: tuple[int, float] | None, policy: Policy) -> ProgramDrift:
    """Nothing seen yet. `prior`: number and sum of scores by which the champion is known. Raises: ValueError."""
    watches: dict[Signal, Watch] = {signal: Watch() for signal in get_args(Signal)}
    watches["score"] = Watch(drift.begin(designs(policy)["score"], {champion: prior} if prior else {}))
    watches["label_share"] = Watch(rises=Detector())
    return ProgramDrift(champion=champion, seen={champion: 0}, watches=watches)


def advance(state: ProgramDrift, policy: Policy, cohort: Sequence[Matured]) -> ProgramDrift:
    """The state after more predictions; those at or before the cursor were seen already, and change nothing.

    How predictions are divided into calls makes no difference, bit for bit, as long as the policy is the same.
    """
    cursor, how = state.cursor, designs(policy)
    fresh = sorted((each for each in cohort if not cursor or each.place > cursor), key=lambda each: each.place)
    while fresh:
        fits = _fitting(state.seen, fresh)
        state, fresh = _advanced(state, how, fresh[:fits]), fresh[fits:]
        if fresh:
            others = {arm: at for arm, at in state.seen.items() if arm != state.champion}
            state = withdrawn(state, min(others, key=others.__getitem__))
    return state


def promoted(state: ProgramDrift, champion: str, prior: tuple[int, float] | None, policy: Policy) -> ProgramDrift:
    """The state after a promotion: no evidence, no alarm, no other arm.

    The new champion is held to `prior`, the number and sum of its scores in the experiment (None: to what was seen of
    it here), and keeps what it has shown in the other signals. Raises: ValueError.
    """

    def only(detector: Detector) -> Detector:
        return Detector({name: arm.cleared() for name, arm in detector.arms.items() if name == champion})

    watches = {signal: watch.each(only) for signal, watch in state.watches.items()}
    if prior:
        watches["score"] = Watch(drift.begin(designs(policy)["score"], {champion: prior}))
    kept = _references(state, {champion})
    seen = {champion: state.seen.get(champion, 0)}
    return ProgramDrift(champion=champion, cursor=state.cursor, seen=seen, watches=watches, references=kept)


def acknowledged(state: ProgramDrift, policy: Policy, signals: Iterable[Signal] | None = None) -> ProgramDrift:
    """The state after alarms (all, or of these signals) were seen and lived with.

    What has fallen is held to its outcomes since the change point; the null before stays on record as `floor`.
    """
    how, named = designs(policy), set(signals) if signals is not None else set(state.watches)
    watches = {
        signal: watch.each(partial(Detector.acknowledged, design=how[signal])) if signal in named else watch
        for signal, watch in state.watches.items()
    }
    return msgspec.structs.replace(state, watches=watches)


def withdrawn(state: ProgramDrift, variant: str) -> ProgramDrift:
    """The state after an arm has left traffic; with it goes an alarm that was about it alone."""
    seen = {arm: at for arm, at in state.seen.items() if arm != variant}
    return msgspec.structs.replace(
        state,
        seen=seen,
        watches={signal: watch.each(lambda side: side.without(variant)) for signal, watch in state.watches.items()},
        references=_references(state, seen),
    )


def alarms(state: ProgramDrift) -> dict[Signal, Alarm]:
    """The alarms that are raised. One of `score` asks for a recompile; one of `label_share` suspends recompiles."""
    return {signal: watch.alarm for signal, watch in state.watches.items() if watch.alarm}


def readings(state: ProgramDrift, policy: Policy) -> list[Reading]:
    """Every signal of every arm, as it is shown."""
    how = designs(policy)
    return [_reading(state, variant, signal, how[signal]) for variant in state.seen for signal in state.watches]


def _reading(state: ProgramDrift, variant: str, signal: Signal, design: Design) -> Reading:
    watch = state.watches[signal]
    arm = watch.falls.arms.get(variant, Arm())
    alarm = watch.alarm if watch.alarm and watch.alarm.arm in (None, variant) else None
    ratio = max(side.evidence_ratio(design, variant) for side in (watch.falls, watch.rises) if side)
    waiting = _reference(state, variant, signal)
    return Reading(
        variant=variant,
        signal=signal,
        status=_status(alarm, arm.outcomes, design, ratio),
        evidence_ratio=ratio,
        score=arm.score,
        baseline=arm.baseline.mean,
        null_score=arm.null(design) if arm.outcomes else None,
        outcomes=arm.outcomes or len(waiting.values),
        change_point=alarm.change_point if alarm else None,
        alarm_at=alarm.at if alarm else None,
        floor=arm.floor,
    )


def _status(alarm: Alarm | None, outcomes: int, design: Design, ratio: float) -> Status:
    if alarm:
        return "alarm"
    if outcomes < design.min_outcomes:
        return "warming"
    return "building" if ratio > BUILDING else "ok"


def _reference(state: ProgramDrift, variant: str, signal: Signal) -> Reference:
    """The values by which this signal of the variant is ranked; empty for signals that are scores themselves."""
    kept = state.references.get(_MEASURES[signal], {}) if signal in _MEASURES else {}
    return kept.get(variant, Reference())


def _references(state: ProgramDrift, arms: Collection[str]) -> dict[Measure, dict[str, Reference]]:
    return {
        measure: {arm: reference for arm, reference in known.items() if arm in arms}
        for measure, known in state.references.items()
    }


def _fitting(seen: Collection[str], fresh: Sequence[Matured]) -> int:
    """How many of these predictions come before there are more arms than are kept."""
    known = set(seen)
    for index, each in enumerate(fresh):
        known.add(each.variant)
        if len(known) > MOST_ARMS:
            return index
    return len(fresh)


def _advanced(state: ProgramDrift, how: dict[Signal, Design], fresh: Sequence[Matured]) -> ProgramDrift:
    """The state after predictions that are all new, in order."""
    if not fresh:
        return state
    references, streams = _streams(state.references, fresh)
    watches: dict[Signal, Watch] = {}
    for signal, watch in state.watches.items():
        known = references[_MEASURES[signal]] if signal in _TAILS else {}
        tails = {arm: reference.known_by(how[signal]) for arm, reference in known.items() if reference.full}
        watches[signal] = watch.fold(how[signal], streams[signal], tails)
    return ProgramDrift(
        champion=state.champion,
        cursor=fresh[-1].place,
        seen=state.seen | {each.variant: each.at for each in fresh},
        watches=watches,
        references=references,
    )


def _streams(
    known: dict[Measure, dict[str, Reference]], fresh: Sequence[Matured]
) -> tuple[dict[Measure, dict[str, Reference]], dict[Signal, list[Outcome]]]:
    """The references after these predictions, and what they say in each signal: (arm, time, score)."""
    slow, latencies = ranks.absorb(known.get("latency", {}), [(m.variant, m.at, m.latency) for m in fresh])
    dear, costs = ranks.absorb(known.get("cost", {}), [(m.variant, m.at, m.cost) for m in fresh if m.cost is not None])
    return {"latency": slow, "cost": dear}, {
        "score": [(m.variant, m.at, m.score) for m in fresh if m.score is not None],
        "label_share": [(m.variant, m.at, float(m.labelled)) for m in fresh],
        "errors": [(m.variant, m.at, float(not m.error)) for m in fresh],
        "latency": [(arm, at, slow[arm].score(value)) for arm, at, value in latencies],
        "latency_tail": [(arm, at, slow[arm].within(value)) for arm, at, value in latencies],
        "cost": [(arm, at, dear[arm].score(value)) for arm, at, value in costs],
        "cost_tail": [(arm, at, dear[arm].within(value)) for arm, at, value in costs],
    }
