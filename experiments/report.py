"""What an operator is told about an experiment: the numbers the decision rests on, in the metrics' own units."""

import math
from collections.abc import Mapping
from typing import Literal

import msgspec

from experiments import holdback
from experiments.decision import (
    BALANCE,
    GUARDRAIL,
    Conclude,
    Drop,
    Fill,
    Keep,
    Ruling,
    Step,
    forecast,
    promotion_threshold,
)
from experiments.experiment import Experiment, State, Verdict
from experiments.facts import ArmCounts
from experiments.folding import Comparison, Evidence
from experiments.metrics import IMPLICIT, Metric
from experiments.quantities import DOLLAR, SECOND


class Mean(msgspec.Struct, frozen=True):
    """Mean over `n` units; None without any."""

    n: int
    mean: float | None


class ArmReport(msgspec.Struct, frozen=True, kw_only=True):
    """One arm. `assigned` to `late` count predictions, `units` what the test has folded."""

    variant: str
    role: Literal["champion", "challenger"]
    split: float
    assigned: int
    matured: int
    pending: int
    missing: int
    late: int
    units: int
    means: dict[str, Mean]


class Interval(msgspec.Struct, frozen=True):
    """A confidence sequence, now: it covers the effect at all times together with probability `level`."""

    lower: float | None
    upper: float | None
    level: float


class ComparisonReport(msgspec.Struct, frozen=True, kw_only=True):
    """One challenger against the champion on one metric. Effects in the metric's unit; ratios less 1 if unbounded.

    `role` is goal for all that a promotion claims: under `as_good_and_cheaper` the goal and the cost.
    """

    challenger: str
    metric: str
    role: Literal["goal", "guardrail"]
    direction: Literal["higher", "lower"]
    estimate: float | None
    estimate_debiased: float | None
    interval: Interval
    log_e_better: float | None
    log_e_harm: float | None
    log_e_futile: float | None
    p_value: float | None


class Check(msgspec.Struct, frozen=True):
    """A validity check; it is violated at its threshold."""

    log_e: float
    threshold: float
    violated: bool


class HoldbackReport(msgspec.Struct, frozen=True):
    """The watch over a promotion: the former champion's `share`, its units that matured, the evidence of harm."""

    share: float
    units: int
    log_e_harm: float | None
    state: Literal["running", "passed", "rolled_back", "ended"]


class Range(msgspec.Struct, frozen=True):
    """How many more units are likely to be needed, as a range: a point would promise too much."""

    low: int
    high: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one experiment, `computed_at` in µs."""

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
    holdback: HoldbackReport | None
    units_expected: Range | None
    computed_at: int


def report(  # noqa: PLR0913 -- what a report is made of, each by its name
    experiment: Experiment,
    evidence: Evidence,
    ruling: Ruling,
    *,
    counts: Mapping[str, ArmCounts],
    split: Mapping[str, float],
    epoch: int,
    wealth: float | None,
    now: int,
    watch: Evidence | None = None,
) -> Report:
    """The report of an experiment at the horizon `now`; `ruling` is what `decide` says of the same evidence.

    `watch` is the evidence of its holdback, where it has one.
    """
    concluded = ruling if isinstance(ruling, Conclude) else None
    return Report(
        experiment_id=experiment.experiment_id,
        program=experiment.program,
        state=experiment.state,
        verdict=experiment.verdict or (concluded.verdict if concluded else None),
        reason=experiment.reason or ruling.reason,
        recommended_action=_recommended(experiment, ruling),
        rolled_back=experiment.rolled_back,
        level=experiment.level,
        wealth=wealth,
        epoch=epoch,
        arms=tuple(_arm(experiment, evidence, arm, counts.get(arm, ArmCounts()), split) for arm in experiment.arms),
        comparisons=tuple(_comparison(experiment, comparison) for comparison in evidence.comparisons),
        srm=_check(evidence.balance.log_e()),
        arrival=_check(evidence.arrival.log_e()),
        holdback=_holdback(experiment, watch),
        units_expected=_units_expected(experiment, evidence) if experiment.state != "concluded" else None,
        computed_at=now,
    )


def _holdback(experiment: Experiment, watch: Evidence | None) -> HoldbackReport | None:
    if experiment.holdback is None or watch is None:
        return None
    return HoldbackReport(
        share=experiment.settings.holdback,
        units=watch.matured((experiment.holdback.former,)),
        log_e_harm=holdback.log_e_harm(watch),
        state=experiment.holdback.state,
    )


def _recommended(experiment: Experiment, ruling: Ruling) -> str:
    """What a person would be right to do now, in a few words."""
    if experiment.state == "concluded":
        return "none: the experiment is concluded"
    match ruling:
        case Conclude(verdict="promote", challenger=challenger):
            return f"promote {challenger}"
        case Conclude(verdict=verdict):
            return {"rollback": "stop: the challenger does harm", "invalid": "stop: the data cannot be trusted"}.get(
                verdict, f"stop: {verdict}"
            )
        case Drop(challenger=challenger):
            return f"take {challenger} off traffic"
        case Step():
            return "raise the challenger's share"
        case Fill() | Keep():
            return "wait"


def _arm(
    experiment: Experiment, evidence: Evidence, arm: str, counts: ArmCounts, split: Mapping[str, float]
) -> ArmReport:
    tally = evidence.tallies[arm]
    goal = experiment.metrics[experiment.goal]
    if goal.kind in IMPLICIT:
        counts = ArmCounts(assigned=counts.assigned, arrived=counts.assigned)
    return ArmReport(
        variant=arm,
        role="champion" if arm == experiment.champion else "challenger",
        split=split.get(arm, 0.0),
        assigned=counts.assigned,
        matured=counts.arrived + (counts.missing if goal.expected == "all" else 0),
        pending=counts.pending,
        missing=counts.missing,
        late=counts.late,
        units=tally.units,
        means={
            name: Mean(n, total / n / _base_unit(experiment.metrics[name]) if n else None)
            for name, (n, total) in sorted(tally.sums.items())
        },
    )


def _base_unit(metric: Metric) -> int:
    """What a person reads latency (s) and cost (USD) in; everything else is in the metric's own unit."""
    return 1 if metric.bounded else {"latency": SECOND, "cost": DOLLAR}.get(metric.kind, 1)


def _comparison(experiment: Experiment, comparison: Comparison) -> ComparisonReport:
    metric = experiment.metrics[comparison.metric]
    claimed = comparison.metric in experiment.objectives
    alpha = 2 * math.exp(-promotion_threshold(experiment)) if claimed else 2 * GUARDRAIL
    lower, upper = comparison.process.interval(alpha)
    debiased = comparison.process.estimate_debiased()
    return ComparisonReport(
        challenger=comparison.challenger,
        metric=comparison.metric,
        role="goal" if claimed else "guardrail",
        direction="lower" if metric.lower_is_better else "higher",
        estimate=_own_unit(metric, comparison.process.estimate()),
        estimate_debiased=_own_unit(metric, debiased),
        interval=_interval(metric, lower, upper, 1 - alpha),
        log_e_better=_finite(comparison.log_e_better),
        log_e_harm=_finite(comparison.log_e_harm),
        log_e_futile=_finite(comparison.log_e_futile),
        p_value=min(1.0, math.exp(-comparison.peak)),
    )


def _interval(metric: Metric, lower: float | None, upper: float | None, level: float) -> Interval:
    ends = [_own_unit(metric, lower), _own_unit(metric, upper)]
    if metric.bounded and metric.lower_is_better:
        ends.reverse()
    return Interval(ends[0], ends[1], level)


def _own_unit(metric: Metric, difference: float | None) -> float | None:
    if difference is None or not math.isfinite(difference):
        return None
    return metric.effect(difference) if metric.bounded else difference


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _check(log_e: float) -> Check:
    threshold = math.log(1 / BALANCE)
    return Check(log_e, threshold, log_e >= threshold)


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One moment of one comparison, for a plot. `number` is the last block folded by then, `at` a time in µs."""

    number: int
    at: int
    units: int
    challenger: str
    metric: str
    estimate: float | None
    lower: float | None
    upper: float | None
    log_e_better: float | None
    log_e_harm: float | None
    log_e_futile: float | None


def series_points(experiment: Experiment, evidence: Evidence, at: int) -> list[Point]:
    """Where every comparison stands now."""
    compared = [_comparison(experiment, comparison) for comparison in evidence.comparisons]
    return [
        Point(
            number=evidence.blocks - 1,
            at=at,
            units=evidence.matured((experiment.champion, c.challenger)),
            challenger=c.challenger,
            metric=c.metric,
            estimate=c.estimate,
            lower=c.interval.lower,
            upper=c.interval.upper,
            log_e_better=c.log_e_better,
            log_e_harm=c.log_e_harm,
            log_e_futile=c.log_e_futile,
        )
        for c in compared
    ]


def _units_expected(experiment: Experiment, evidence: Evidence) -> Range | None:
    """How many of the planned units are likely to be needed still; see `forecast`."""
    left = max(0, experiment.settings.max_units - evidence.matured(experiment.arms))
    needed = forecast(experiment, evidence)
    return None if needed is None else Range(min(left, needed[0]), min(left, needed[1]))
