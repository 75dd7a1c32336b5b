"""What an experiment is likely to take and to end in, before it is started: many simulated under its own settings.

The runs are folded side by side by `batch`, which equals the engine row for row; thresholds and their order are those
of `decision`, and a test holds the verdicts equal. A unit stands for whatever is randomised. Of several challengers one
has the effect in question; of the others only their share of the traffic and the stricter threshold are seen.
"""

import math
from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from experiments.batch import Batch, Logs
from experiments.decision import FUTILITY, GUARDRAIL, RAMP_CAUTION, harm_threshold, promotion_threshold
from experiments.experiment import Experiment
from experiments.metrics import Metric
from experiments.quantities import SECOND
from experiments.strata import Floats

DAY = 86_400 * SECOND
RUNS = 400
POWER = 0.8
"""How often an effect must be promoted to be called detectable."""
LOOKS_GROW = 0.06
"""Looks are this far apart, as a part of the units so far, and LEAST_LOOK units at least."""
LEAST_LOOK = 25
SPREAD_OF_LOGS = 0.5
"""The standard deviation of log latency or log cost where nothing is known: most within a factor of three."""

Chance = Literal["promote", "rollback", "futile", "inconclusive"]
CHANCES: tuple[Chance, ...] = ("promote", "rollback", "futile", "inconclusive")


class Assumption(msgspec.Struct, frozen=True):
    """What is taken to be true of the champion on one metric, in the metric's own unit.

    `mean` matters for bounded metrics; `deviation` is the standard deviation between units (None: of a value that is
    either end of the range), for unbounded metrics that of the logarithm (None: SPREAD_OF_LOGS).
    """

    mean: float
    deviation: float | None = None


class Range(msgspec.Struct, frozen=True):
    """Mean and the tenth and ninetieth of a hundred."""

    mean: float
    low: float
    high: float


class Scenario(msgspec.Struct, frozen=True):
    """What becomes of the experiment when the true effect is `effect`; `days` are those in which the units enter."""

    effect: float
    units: Range
    days: Range
    chances: dict[Chance, float]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Scenarios from harm to twice the least effect; the smallest effect found with probability POWER, None for none.

    `runs` simulated experiments stand behind each chance: its standard error is at most 0.5/√runs.
    """

    units_per_day: float
    level: float
    scenarios: tuple[Scenario, ...]
    detectable_effect: float | None
    runs: int


def plan(
    experiment: Experiment, assumed: Mapping[str, Assumption], units_per_day: float, *, seed: int, runs: int = RUNS
) -> Plan:
    """The plan of a drafted experiment; `assumed` holds every metric it compares. Equal seeds give equal plans."""
    least = experiment.settings.min_effect
    return Plan(
        units_per_day=units_per_day,
        level=experiment.settings.alpha if experiment.level is None else experiment.level,
        scenarios=tuple(
            _scenario(
                effect,
                simulate(experiment, assumed, units_per_day, effect, seed=seed + number, runs=runs),
                units_per_day,
            )
            for number, effect in enumerate((-least, 0.0, least, 2 * least))
        ),
        detectable_effect=_detectable(experiment, assumed, units_per_day, seed, max(100, runs // 2)),
        runs=runs,
    )


class Ends(msgspec.Struct, frozen=True):
    """Per run: the verdict, and the units that had matured."""

    verdicts: NDArray[np.str_]
    units: NDArray[np.int64]


def simulate(
    experiment: Experiment,
    assumed: Mapping[str, Assumption],
    units_per_day: float,
    effect: float,
    *,
    seed: int,
    runs: int,
) -> Ends:
    """How `runs` experiments end in which the first challenger is better by `effect` on the metric aimed at."""
    rng = np.random.default_rng(seed)  # noqa: TID251 -- the seed is a parameter; the same one gives the same runs
    course = _Course(experiment, assumed, effect, runs)
    days = experiment.settings.max_duration / DAY
    limit = max(LEAST_LOOK, min(experiment.settings.max_units, math.ceil(units_per_day * days)))
    verdicts, units = np.full(runs, "inconclusive", dtype="<U12"), np.full(runs, limit)
    going, n = np.arange(runs), 0
    while n < limit and len(going):
        size = min(max(LEAST_LOOK, round(LOOKS_GROW * n)), limit - n)
        n += size
        course.look(rng, size)
        found = course.verdicts(promotable=n / units_per_day * DAY >= experiment.settings.min_duration)
        over = found != ""
        verdicts[going[over]], units[going[over]] = found[over], n
        course.keep(~over)
        going = going[~over]
    return Ends(verdicts, units)


class _Course:
    """The experiments still going: their comparisons, what they have reached, and where their ramps stand."""

    def __init__(self, experiment: Experiment, assumed: Mapping[str, Assumption], effect: float, runs: int) -> None:
        self._settings = experiment.settings
        self._aim, self._aa = experiment.aim, experiment.aa
        challengers = len(experiment.challengers)
        opening = 1 - experiment.split[experiment.champion]
        self._shares = np.array([opening, *(step for step in experiment.settings.ramp if step > opening + 1e-9)])
        self._each = 1 / challengers
        self._compared = [
            _Compared(experiment, name, assumed[name], effect if name == experiment.aim else 0.0, runs)
            for name in experiment.compared
        ]
        self._step, self._since = np.zeros(runs, dtype=int), np.zeros(runs)
        self._matured = np.zeros((runs, 2))

    def look(self, rng: np.random.Generator, size: int) -> None:  # noqa: TID251 -- seeded by `simulate`
        """Fold `size` more units, then let ramps go on that may."""
        share = self._shares[self._step]
        mine, others = share * self._each, 1 - share
        challenger = rng.binomial(size, mine)
        control = rng.binomial(size - challenger, others / (1 - mine))
        for compared in self._compared:
            compared.fold(rng, control, challenger, mine / (mine + others))
        self._matured += np.stack([control, challenger], axis=1)
        self._since += challenger / self._each
        caution = math.log(RAMP_CAUTION * len(self._compared))
        calm = np.all([compared.log_e["harm"] <= caution for compared in self._compared], axis=0)
        steps = (self._since >= self._settings.ramp_units) & calm & (self._step < len(self._shares) - 1)
        self._step, self._since = self._step + steps, np.where(steps, 0.0, self._since)

    def verdicts(self, *, promotable: bool) -> NDArray[np.str_]:
        """Each run's verdict now, "" for none; in the order of `decision.decide`."""
        mature = (self._matured >= self._settings.min_units).all(axis=1)
        aim = next(compared for compared in self._compared if compared.name == self._aim)
        promote = (
            np.all([compared.reached["better"] for compared in self._compared], axis=0)
            & mature
            & (promotable and not self._aa)
        )
        futile = aim.reached["futile"] & ~aim.reached["better"] & mature
        harm = np.any([compared.reached["harm"] for compared in self._compared], axis=0)
        return np.select([harm, promote, futile], ["rollback", "promote", "futile"], "")

    def keep(self, going: NDArray[np.bool_]) -> None:
        """Go on with some of the runs only."""
        self._step, self._since, self._matured = self._step[going], self._since[going], self._matured[going]
        for compared in self._compared:
            compared.keep(going)


class _Compared:
    """One metric of the challenger against the champion in every run."""

    def __init__(self, experiment: Experiment, name: str, assumed: Assumption, effect: float, runs: int) -> None:
        self.name, self._metric = name, experiment.metrics[name]
        aim = name == experiment.aim
        margin = 0.0 if aim else self._metric.allowance
        least = experiment.settings.min_effect if aim else None
        needed = promotion_threshold(experiment) if name in experiment.objectives else math.log(1 / GUARDRAIL)
        self._limits = {"better": needed, "harm": harm_threshold(experiment), "futile": math.log(1 / FUTILITY)}
        self.log_e = {side: np.zeros(runs) for side in self._limits}
        self.reached = {side: np.zeros(runs, dtype=bool) for side in self._limits}
        self._process: Batch | Logs
        if self._metric.bounded:
            width = self._metric.bounds[1] - self._metric.bounds[0]
            self._process = Batch(runs, margin=margin / width, min_effect=least and least / width)
            self._scores, self._rates = _two_points(self._metric, assumed, effect / width)
        else:
            deviation = assumed.deviation or SPREAD_OF_LOGS
            improvement = math.copysign(math.log1p(abs(effect)), effect)
            self._process = Logs(runs, improvement, deviation, margin=margin, min_effect=least)

    def fold(
        self,
        rng: np.random.Generator,  # noqa: TID251 -- seeded by `simulate`
        control: NDArray[np.int64],
        challenger: NDArray[np.int64],
        pi: Floats,
    ) -> None:
        """Draw what these units bring, and look."""
        if isinstance(self._process, Logs):
            found = self._process.fold(rng, control, challenger)
        else:
            won = rng.binomial(control, self._rates[0]), rng.binomial(challenger, self._rates[1])
            count = np.stack([control - won[0], won[0], challenger - won[1], won[1]], axis=1)
            w = np.broadcast_to(np.array([0.0, 0, 1, 1]), count.shape)
            sides = self._process.fold(w, np.broadcast_to(self._scores, count.shape), pi[:, None], count)
            found = {side: path[:, -1] for side, path in sides.items()}
        for side, log_e in found.items():
            self.log_e[side] = log_e
            self.reached[side] |= log_e >= self._limits[side]

    def keep(self, going: NDArray[np.bool_]) -> None:
        """Go on with some of the runs only."""
        self._process.keep(going)
        self.log_e = {side: found[going] for side, found in self.log_e.items()}
        self.reached = {side: found[going] for side, found in self.reached.items()}


def _two_points(metric: Metric, assumed: Assumption, effect: float) -> tuple[Floats, tuple[float, float]]:
    """Scores of the four kinds of row, and how often each arm has the higher one.

    A score of mean p and deviation s is drawn as p + λ(b − p), with b one or zero and λ = s/√(p(1−p)), at most 1.
    """
    p = min(max(metric.score(assumed.mean), 0.001), 0.999)
    low, high = metric.bounds
    whole = math.sqrt(p * (1 - p))
    stretch = 1.0 if assumed.deviation is None else min(1.0, max(0.05, assumed.deviation / (high - low) / whole))
    below, above = p * (1 - stretch), p + stretch * (1 - p)
    better = min(max(p + effect / stretch, 0.0), 1.0)
    return np.array([below, above, below, above]), (p, better)


def _scenario(effect: float, ends: Ends, units_per_day: float) -> Scenario:
    low, high = np.quantile(ends.units, [0.1, 0.9])
    units = Range(float(ends.units.mean()), float(low), float(high))
    days = Range(*(round(value / units_per_day, 3) for value in (units.mean, units.low, units.high)))
    return Scenario(effect, units, days, {chance: float((ends.verdicts == chance).mean()) for chance in CHANCES})


def _detectable(
    experiment: Experiment, assumed: Mapping[str, Assumption], units_per_day: float, seed: int, runs: int
) -> float | None:
    """The smallest effect promoted with probability POWER, to a twentieth part, by halving on the log scale."""

    def found(effect: float) -> bool:
        ends = simulate(experiment, assumed, units_per_day, effect, seed=seed + 10, runs=runs)
        return bool((ends.verdicts == "promote").mean() >= POWER)

    metric, least_effect = experiment.metrics[experiment.aim], experiment.settings.min_effect
    room = abs(metric.effect(1 - metric.score(assumed[experiment.aim].mean))) if metric.bounded else 4 * least_effect
    if room <= 0 or not found(room):
        return None
    least, most = math.log(min(room, least_effect / 4)), math.log(room)
    while most - least > 0.05:
        middle = (least + most) / 2
        least, most = (least, middle) if found(math.exp(middle)) else (middle, most)
    return float(f"{math.exp(most):.3g}")
