"""Drift on the wire: what the detectors say of a program, and the alarms they raised."""

from typing import get_args

import msgspec

from monitoring.inputs import Finding
from monitoring.signals import Reading, Signal, Status, designs
from server.store.drifts import AlarmRaised, KeptWatch, Sample
from server.wire.scalars import Time, moment, moment_or_none


class DriftSignal(msgspec.Struct, frozen=True, kw_only=True):
    """One signal of one variant on traffic.

    `evidence_ratio` is 1 at the alarm: the logarithm of the evidence over that of the threshold. `score` is the mean of
    the last 500, `baseline` that of all it has learned from, `null_score` what it is held to; for latency and cost they
    are scores by rank, below a half where things got slower or dearer. `change_point` is since when. `floor` is what it
    was held to before an alarm was lived with.
    """

    variant: str
    signal: Signal
    status: Status
    evidence_ratio: float
    score: float | None
    baseline: float | None
    null_score: float | None
    outcomes: int
    change_point: Time | None
    alarm_at: Time | None
    floor: float | None


class DriftAlarm(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm: raised by the prediction made at `raised_at`, fallen since that of `change_point`.

    `noticed_at` is when the server knew: predictions are judged once they have matured. It is open until `closed_at`,
    and `closed_by` says what ended it.
    """

    variant: str
    signal: Signal
    raised_at: Time
    noticed_at: Time
    change_point: Time
    score: float | None
    baseline: float | None
    closed_at: Time | None
    closed_by: str | None


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """How a program is watched for getting worse, and what is to be said of it.

    Predictions made before `judged_until` have matured and are taken in. `outcomes_between_false_alarms` is the least
    that is promised of the score. `alarms` are the latest, newest first.
    """

    program: str
    status: Status
    signals: list[DriftSignal]
    alarms: list[DriftAlarm]
    judged_until: Time | None
    outcomes_between_false_alarms: float | None


class InputSample(msgspec.Struct, frozen=True):
    """Which predictions a sample of inputs is of."""

    predictions: int
    since: Time | None
    until: Time | None


class InputDrift(msgspec.Struct, frozen=True, kw_only=True):
    """How the latest inputs differ from the first ones under this champion, field by field. Information only."""

    program: str
    reference: InputSample
    recent: InputSample
    fields: list[Finding]


def inputs(program: str, reference: Sample, recent: Sample, found: list[Finding]) -> InputDrift:
    """Two samples of inputs, and what is found of their fields."""
    return InputDrift(program=program, reference=_sample(reference), recent=_sample(recent), fields=found)


def _sample(sample: Sample) -> InputSample:
    return InputSample(len(sample.inputs), moment_or_none(sample.since), moment_or_none(sample.until))


def drift(program: str, kept: KeptWatch | None, alarms: list[AlarmRaised]) -> Drift:
    """A program's watch; before its first tick nothing can be said."""
    watched = kept.body if kept else None
    return Drift(
        program=program,
        status=watched.status if watched else "warming",
        signals=[_signal(reading) for reading in sorted(watched.readings, key=_place)] if watched else [],
        alarms=[_alarm(alarm) for alarm in alarms],
        judged_until=moment(watched.upto) if watched else None,
        outcomes_between_false_alarms=designs(watched.policy)["score"].run_length if watched else None,
    )


_ORDER = get_args(Signal)


def _place(reading: Reading) -> tuple[str, int]:
    """By variant, the score first."""
    return reading.variant, _ORDER.index(reading.signal)


def _signal(reading: Reading) -> DriftSignal:
    told = msgspec.structs.asdict(reading)
    times = {name: moment_or_none(told[name]) for name in ("change_point", "alarm_at")}
    return DriftSignal(**{**told, **times})


def _alarm(alarm: AlarmRaised) -> DriftAlarm:
    return DriftAlarm(
        variant=alarm.variant,
        signal=alarm.signal,
        raised_at=moment(alarm.raised_at),
        noticed_at=moment(alarm.noticed_at),
        change_point=moment(alarm.change_point),
        score=alarm.reading.score,
        baseline=alarm.reading.baseline,
        closed_at=moment_or_none(alarm.closed_at),
        closed_by=alarm.closed_by,
    )
