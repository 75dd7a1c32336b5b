"""An experiment's report and its course over time, on the wire."""

from typing import Literal

import msgspec

from experiments.experiment import State, Verdict
from experiments.report import ArmReport, Check, ComparisonReport, Range
from experiments.report import Point as DomainPoint
from experiments.report import Report as DomainReport
from server.wire.scalars import Share, Time, moment


class Holdback(msgspec.Struct, frozen=True):
    """The watch over a promotion: the former champion's `share`, the units gathered, the evidence of harm."""

    share: Share
    units: int
    log_e_harm: float | None
    state: Literal["running", "passed", "rolled_back", "ended"]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known about an experiment now: arms, comparisons, validity, level, and what to do next.

    Evidence is given as natural logarithms of e-values. Numbers that do not exist yet are null.
    """

    experiment_id: str
    program: str
    state: State
    verdict: Verdict | None
    reason: str | None
    recommended_action: str
    rolled_back: bool
    level: float | None
    wealth: float | None
    epoch: int
    arms: tuple[ArmReport, ...]
    comparisons: tuple[ComparisonReport, ...]
    srm: Check
    arrival: Check
    holdback: Holdback | None
    units_expected: Range | None
    computed_at: Time


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One challenger and metric as the report showed it at one moment."""

    at: Time
    units: int
    challenger: str
    metric: str
    estimate: float | None
    lower: float | None
    upper: float | None
    log_e_better: float | None
    log_e_harm: float | None
    log_e_futile: float | None


class Series(msgspec.Struct, frozen=True):
    """What the report plots over time, oldest first."""

    points: list[Point]


def report(found: DomainReport) -> Report:
    """A report with its time as one."""
    fields = msgspec.structs.asdict(found)
    holdback = None if found.holdback is None else Holdback(**msgspec.structs.asdict(found.holdback))
    return Report(**{**fields, "holdback": holdback, "computed_at": moment(found.computed_at)})


def series(found: list[DomainPoint]) -> Series:
    """Points with their times."""
    return Series([_point(point) for point in found])


def _point(found: DomainPoint) -> Point:
    fields = msgspec.structs.asdict(found)
    del fields["number"]
    return Point(**{**fields, "at": moment(found.at)})
