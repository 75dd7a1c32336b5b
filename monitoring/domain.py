"""What is true of the whole installation, read from the database and shown by the leader alone.

Each method replaces all that was shown about one program, so that nothing lingers: what is no longer in the database,
or about a variant no longer on traffic, is gone with the next reading.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import get_args

import msgspec
from prometheus_client import Gauge

from experiments.decision import FUTILITY, harm_threshold, promotion_threshold
from experiments.experiment import Experiment
from experiments.folding import Evidence
from experiments.quantities import DOLLAR, SECOND
from experiments.report import Point, series_points
from monitoring.families import Families, Reason, Result, RunState
from monitoring.signals import Reading

_ENDED: dict[Result, RunState] = {
    "admitted": "succeeded",
    "rejected": "rejected",
    "failed": "failed",
    "cancelled": "cancelled",
}


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a program's recent predictions that have matured.

    `scores` are in [0, 1], 1 is best, by (variant, metric); `cost_per_correct` is in dollars, by variant; `coverage`
    is the share that has an outcome of the goal, by variant.
    """

    scores: Mapping[tuple[str, ...], float] = {}
    cost_per_correct: Mapping[str, float] = {}
    coverage: Mapping[str, float] = {}


class Learning(msgspec.Struct, frozen=True, kw_only=True):
    """A program's compile runs: all that ever were, by reason and state, and the money in picodollars.

    `month` is what this month's cost so far, `budget` what they may (None: unbounded). `progress` (0 to 1) and
    `progressed_at` (µs) are those of the run under way.
    """

    runs: Mapping[tuple[Reason, RunState], int] = {}
    spent: int = 0
    month: int = 0
    budget: int | None = None
    progress: float | None = None
    progressed_at: int | None = None


class Domain:
    """The families that only a leader shows."""

    def __init__(self, families: Families) -> None:
        self._families = families
        self._show_trials()
        self._show_drift()
        self._show_learning()

    def _show_trials(self) -> None:
        gauge = partial(self._families.gauge, led=True)
        self._score = gauge(
            "score_ratio", "Mean score, 1 is best, of the last day's matured predictions.", "program variant metric"
        )
        self._coverage = gauge(
            "outcome_coverage_ratio",
            "Share of the last day's matured predictions that have an outcome of the goal.",
            "program variant",
        )
        self._cost_per_correct = gauge(
            "cost_per_correct_dollars",
            "Cost of a prediction divided by the share of right answers, over the last day's matured predictions.",
            "program variant",
        )
        self._effect = gauge(
            "experiment_effect_ratio",
            "Challenger against champion, with the bounds of the confidence sequence.",
            "program variant metric bound",
        )
        self._evidence = gauge(
            "experiment_log_evidence",
            "Natural log of the e-value; of harm, the greatest over all metrics compared.",
            "program variant side",
        )
        self._threshold = gauge(
            "experiment_log_evidence_threshold", "Natural log of the e-value that decides.", "program side"
        )
        self._progress = gauge("experiment_progress_ratio", "Units folded, of max_units.", "program")
        self._srm = gauge("srm_log_evidence", "Natural log of the e-value against the split.", "program")
        self._arrival = gauge(
            "arrival_log_evidence", "Natural log of the e-value against outcomes arriving evenly.", "program"
        )

    def _show_drift(self) -> None:
        gauge = partial(self._families.gauge, labels="program variant signal", led=True)
        self._drift: list[tuple[Gauge, Callable[[Reading], float | None]]] = [
            (
                gauge("drift_evidence_ratio", "Log evidence of a change, of what raises the alarm: 1 is an alarm."),
                lambda reading: reading.evidence_ratio,
            ),
            (gauge("drift_alarm", "1 while an alarm is open, else 0."), lambda reading: reading.alarm_at is not None),
            (
                gauge("drift_score_ratio", "Mean score of the last 500 matured predictions."),
                lambda reading: reading.score,
            ),
            (
                gauge("drift_baseline_score_ratio", "Mean score that the variant is held to."),
                lambda reading: reading.baseline,
            ),
            (
                gauge("drift_null_score_ratio", "Mean score below which there is evidence."),
                lambda reading: reading.null_score,
            ),
            (gauge("drift_baseline_outcomes", "Matured predictions seen."), lambda reading: reading.outcomes),
            (
                gauge("drift_change_timestamp_seconds", "When what raised the open alarm is estimated to have begun."),
                lambda reading: _seconds(reading.change_point),
            ),
        ]
        self._alarms = self._families.counter("drift_alarms", "Alarms raised.", "program variant signal", led=True)
        self._updated = self._families.gauge(
            "drift_last_update_timestamp_seconds",
            "When the program's detectors were last brought up to date.",
            "program",
            led=True,
        )

    def _show_learning(self) -> None:
        gauge = partial(self._families.gauge, led=True)
        self._runs = gauge("compile_runs", "Compile runs, by where they stand.", "program state")
        counter = partial(self._families.counter, led=True)
        self._recompiles = counter("recompiles", "Compile runs that have ended.", "program reason result")
        self._compile_cost = counter("compile_cost_dollars", "Cost of compile runs.", "program")
        self._month = gauge("compile_month_cost_dollars", "Cost of this calendar month's compile runs.", "program")
        self._budget = gauge(
            "compile_month_budget_dollars", "What a calendar month may cost; absent if unbounded.", "program"
        )
        self._compiled = gauge("compile_progress_ratio", "Metric calls made, of the run's budget.", "program")
        self._progressed = gauge(
            "compile_last_progress_timestamp_seconds", "When the run under way last told of itself.", "program"
        )

    def weighed(self, program: str, live: tuple[Experiment, Evidence] | None) -> None:
        """Show where the program's live experiment stands; None: it has none."""
        tell = partial(self._families.tell, program=program)
        points = series_points(*live, at=0) if live else []
        tell(self._effect, values=_effects(points))
        tell(self._evidence, values=_evidence(live[0], points) if live else {})
        tell(self._threshold, values=_thresholds(live[0]) if live else {})
        tell(self._progress, values={(): _progress(*live)} if live else {})
        tell(self._srm, values={(): live[1].balance.log_e()} if live else {})
        tell(self._arrival, values={(): live[1].arrival.log_e()} if live else {})

    def surveyed(self, program: str, found: Survey) -> None:
        """Show what became of the program's recent predictions."""
        tell = partial(self._families.tell, program=program)
        tell(self._score, values=found.scores)
        tell(self._coverage, values={(variant,): share for variant, share in found.coverage.items()})
        tell(self._cost_per_correct, values={(variant,): cost for variant, cost in found.cost_per_correct.items()})

    def drifted(
        self,
        program: str,
        readings: Collection[Reading],
        alarms: Mapping[tuple[str, str], int],
        updated_at: int | None,
    ) -> None:
        """Show what the program's detectors say, which were last brought up to date at `updated_at` (µs).

        `alarms` counts those ever raised, by variant and signal.
        """
        tell = partial(self._families.tell, program=program)
        for family, of in self._drift:
            said = {(each.variant, each.signal): of(each) for each in readings}
            tell(family, values={labels: value for labels, value in said.items() if value is not None})
        shown = [(each.variant, each.signal) for each in readings]
        tell(self._alarms, values={labels: alarms.get(labels, 0) for labels in shown})
        tell(self._updated, values=_maybe(updated_at, SECOND))

    def compiled(self, program: str, found: Learning) -> None:
        """Show the program's compile runs."""
        tell = partial(self._families.tell, program=program)
        tell(self._runs, values=_by_state(found.runs))
        tell(self._recompiles, values=_recompiles(found.runs))
        tell(self._compile_cost, values={(): found.spent / DOLLAR})
        tell(self._month, values={(): found.month / DOLLAR})
        tell(self._budget, values=_maybe(found.budget, DOLLAR))
        tell(self._compiled, values=_maybe(found.progress, 1))
        tell(self._progressed, values=_maybe(found.progressed_at, SECOND))


def _effects(points: Iterable[Point]) -> dict[tuple[str, ...], float]:
    return {
        (point.challenger, point.metric, bound): effect
        for point in points
        for bound, effect in (("lower", point.lower), ("estimate", point.estimate), ("upper", point.upper))
        if effect is not None
    }


def _evidence(experiment: Experiment, points: Iterable[Point]) -> dict[tuple[str, ...], float]:
    """For better and futile what the aim says; of harm the greatest, since any one metric's ends a challenger."""
    shown: dict[tuple[str, ...], float] = {}
    for point in points:
        harm = (point.challenger, "harm")
        if point.log_e_harm is not None:
            shown[harm] = max(point.log_e_harm, shown.get(harm, -math.inf))
        if point.metric == experiment.aim:
            sides = {"better": point.log_e_better, "futile": point.log_e_futile}
            shown.update({(point.challenger, side): log_e for side, log_e in sides.items() if log_e is not None})
    return shown


def _thresholds(experiment: Experiment) -> dict[tuple[str, ...], float]:
    return {
        ("better",): promotion_threshold(experiment),
        ("harm",): harm_threshold(experiment),
        ("futile",): math.log(1 / FUTILITY),
    }


def _progress(experiment: Experiment, evidence: Evidence) -> float:
    return evidence.matured(experiment.arms) / experiment.settings.max_units


def _by_state(runs: Mapping[tuple[Reason, RunState], int]) -> dict[tuple[str, ...], float]:
    return {(state,): sum(n for (_, at), n in runs.items() if at == state) for state in get_args(RunState)}


def _recompiles(runs: Mapping[tuple[Reason, RunState], int]) -> dict[tuple[str, ...], float]:
    """All of them, also those that never happened: the first is then seen to happen."""
    return {
        (reason, result): runs.get((reason, state), 0)
        for reason in get_args(Reason)
        for result, state in _ENDED.items()
    }


def _seconds(at: int | None) -> float | None:
    return None if at is None else at / SECOND


def _maybe(value: float | None, unit: float) -> dict[tuple[str, ...], float]:
    return {} if value is None else {(): value / unit}
