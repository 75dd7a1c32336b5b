"""Experiments that have not been run: many simulated side by side under the settings of one, to their verdicts.

The runs are folded by `batch`, which equals the engine row for row; thresholds and their order are those of `decision`,
shares those of `allocation`, and tests hold the verdicts equal. A unit stands for whatever is randomised; by pairs a
request that both variants answer is a unit in either arm. Of several challengers one has the effect in question; of the
others only their share of the traffic and the stricter threshold are seen.
"""

import math
from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from experiments import allocation
from experiments.batch import Batch, Logs, PairBatch
from experiments.decision import FUTILITY, GUARDRAIL, RAMP_CAUTION, harm_threshold, promotion_threshold
from experiments.experiment import Experiment
from experiments.metrics import Metric
from experiments.quantities import SECOND
from experiments.strata import Floats

DAY = 86_400 * SECOND
LOOKS_GROW = 0.06
"""Looks are this far apart, as a part of the units so far, and LEAST_LOOK units at least."""
LEAST_LOOK = 25
SPREAD_OF_LOGS = 0.5
"""The standard deviation of log latency, cost or tokens where nothing is known: most within a factor of three."""

Chance = Literal["promote", "rollback", "futile", "inconclusive"]


class Assumption(msgspec.Struct, frozen=True):
    """What is taken to be true of one metric; of the champion, in the metric's own unit, unless said otherwise.

    `mean` matters for bounded metrics; `deviation` is the standard deviation between units (None: of a value that is
    either end of the range), for unbounded metrics that of the logarithm (None: SPREAD_OF_LOGS). `explained` is the
    share of a unit's variance that the experiment's covariates explain. `agreement` is the share of requests on which
    both variants score alike, for an experiment by pairs (None: only as often as chance has it).
    """

    mean: float
    deviation: float | None = None
    explained: float = 0.0
    agreement: float | None = None


class Ends(msgspec.Struct, frozen=True):
    """Per run: the verdict, the units that had matured in all arms together, and the days in which they entered."""

    verdicts: NDArray[np.str_]
    units: NDArray[np.int64]
    days: Floats


def simulate(
    experiment: Experiment,
    assumed: Mapping[str, Assumption],
    units_per_day: float,
    effect: float,
    *,
    seed: int,
    runs: int,
) -> Ends:
    """How `runs` experiments end in which the first challenger is better by `effect` on the metric aimed at.

    `units_per_day` counts new units; by pairs, all requests, of which the challengers' share is drawn.
    """
    rng = np.random.default_rng(seed)  # noqa: TID251 -- the seed is a parameter; the same one gives the same runs
    settings, course = experiment.settings, _Course(experiment, assumed, units_per_day, effect, runs)
    days = settings.max_duration / DAY
    each = 2 if settings.pairs else 1
    limit = max(LEAST_LOOK, min(settings.max_units // each, math.ceil(units_per_day * days)))
    ends = Ends(np.full(runs, "inconclusive", dtype="<U12"), np.full(runs, each * limit), np.full(runs, days))
    going, n = np.arange(runs), 0
    while n < limit and len(going):
        size = min(max(LEAST_LOOK, round(LOOKS_GROW * n)), limit - n)
        n += size
        course.look(rng, size)
        found = course.verdicts()
        over = (found != "") | (course.days >= days) | (n >= limit)
        ends.verdicts[going[over]] = np.where(found == "", "inconclusive", found)[over]
        ends.units[going[over]], ends.days[going[over]] = each * n, np.minimum(course.days, days)[over]
        course.keep(~over)
        going = going[~over]
    return ends


class _Course:
    """The experiments still going: their comparisons, what they have reached, and where their splits stand."""

    def __init__(
        self,
        experiment: Experiment,
        assumed: Mapping[str, Assumption],
        units_per_day: float,
        effect: float,
        runs: int,
    ) -> None:
        self._experiment, self._settings, self._per_day = experiment, experiment.settings, units_per_day
        self._compared = [
            _Compared(experiment, name, assumed[name], effect if name == experiment.aim else 0.0, runs)
            for name in experiment.compared
        ]
        self._aim = next(compared for compared in self._compared if compared.name == experiment.aim)
        opening = [experiment.split[arm] for arm in (experiment.champion, experiment.challengers[0])]
        self._split = np.tile(opening, (runs, 1))  # of the champion, and of the challenger in question
        self._since = np.zeros(runs)
        self._matured = np.zeros((runs, 2))
        self.days = np.zeros(runs)

    def look(self, rng: np.random.Generator, size: int) -> None:  # noqa: TID251 -- seeded by `simulate`
        """Fold `size` more units, or pairs, then let splits move that may."""
        champion, mine = self._split.T
        if self._settings.pairs:
            control = challenger = np.full(len(mine), size)
            self.days = self.days + size / (self._per_day * (1 - champion))
            self._since += size
        else:
            challenger = rng.binomial(size, mine)
            control = rng.binomial(size - challenger, np.minimum(champion / (1 - mine), 1.0))
            self.days = self.days + size / self._per_day
            self._since += size - control
        for compared in self._compared:
            compared.fold(rng, control, challenger, mine / (mine + champion))
        self._matured += np.stack([control, challenger], axis=1)
        self._move()

    def _move(self) -> None:
        """The next split, for runs whose challengers have matured long enough in the present one."""
        due = self._since >= self._settings.ramp_units
        if self._settings.allocation == "adaptive":
            self._adapt(due & self._mature())
        elif self._settings.ramp:
            caution = math.log(RAMP_CAUTION * len(self._compared))
            calm = np.all([compared.log_e["harm"] <= caution for compared in self._compared], axis=0)
            self._climb(due & calm)

    def _climb(self, due: NDArray[np.bool_]) -> None:
        """The ramp's next step, where there is one."""
        ramp = np.array(self._settings.ramp)
        place = np.searchsorted(ramp, 1 - self._split[:, 0] + 1e-9, side="right")
        due = due & (place < len(ramp))
        share = ramp[place[due]]
        self._split[due] = np.stack([1 - share, share / len(self._experiment.challengers)], axis=1)
        self._since[due] = 0.0

    def _adapt(self, due: NDArray[np.bool_]) -> None:
        """The shares that the evidence leads to; the other challengers have none to show."""
        arms = self._experiment.arms[:2]
        odds = self._aim.log_e["better"] - np.max([compared.log_e["harm"] for compared in self._compared], axis=0)
        for run in np.flatnonzero(due):
            shares = allocation.shares(self._experiment.split, {arms[1]: float(odds[run])})
            after = {arm: shares[arm] for arm in arms}
            if allocation.moved(dict(zip(arms, self._split[run], strict=True)), after):
                self._split[run], self._since[run] = list(after.values()), 0.0

    def _mature(self) -> NDArray[np.bool_]:
        return np.asarray((self._matured >= self._settings.min_units).all(axis=1))

    def verdicts(self) -> NDArray[np.str_]:
        """Each run's verdict now, "" for none; in the order of `decision.decide`."""
        mature = self._mature()
        allowed = mature & (self.days * DAY >= self._settings.min_duration) & (not self._experiment.aa)
        promote = allowed & np.all([compared.reached["better"] for compared in self._compared], axis=0)
        futile = self._aim.reached["futile"] & ~self._aim.reached["better"] & mature
        harm = np.any([compared.reached["harm"] for compared in self._compared], axis=0)
        return np.select([harm, promote, futile], ["rollback", "promote", "futile"], "")

    def keep(self, going: NDArray[np.bool_]) -> None:
        """Go on with some of the runs only."""
        self._split, self._since, self._matured = self._split[going], self._since[going], self._matured[going]
        self.days = self.days[going]
        for compared in self._compared:
            compared.keep(going)


class _Compared:
    """One metric of the challenger against the champion in every run."""

    def __init__(self, experiment: Experiment, name: str, assumed: Assumption, effect: float, runs: int) -> None:
        self.name, metric = name, experiment.metrics[name]
        aim = name == experiment.aim
        margin = 0.0 if aim else metric.allowance
        least = experiment.settings.min_effect if aim else None
        needed = promotion_threshold(experiment) if name in experiment.objectives else math.log(1 / GUARDRAIL)
        self._limits = {"better": needed, "harm": harm_threshold(experiment), "futile": math.log(1 / FUTILITY)}
        self.log_e = {side: np.zeros(runs) for side in self._limits}
        self.reached = {side: np.zeros(runs, dtype=bool) for side in self._limits}
        self._process: Batch | PairBatch | Logs
        if not metric.bounded:
            improvement = math.copysign(math.log1p(abs(effect)), effect)
            deviation = assumed.deviation or SPREAD_OF_LOGS
            self._process = Logs(runs, improvement, deviation, margin=margin, min_effect=least)
            return
        width = metric.bounds[1] - metric.bounds[0]
        pairs = experiment.settings.pairs
        self._process = (PairBatch if pairs else Batch)(runs, margin=margin / width, min_effect=least and least / width)
        self._values, self._chances = (_differences if pairs else _two_points)(metric, assumed, effect / width)

    def fold(
        self,
        rng: np.random.Generator,  # noqa: TID251 -- seeded by `simulate`
        control: NDArray[np.int64],
        challenger: NDArray[np.int64],
        pi: Floats,
    ) -> None:
        """Draw what these units bring, and look."""
        for side, log_e in self._drawn(rng, control, challenger, pi).items():
            self.log_e[side] = log_e
            self.reached[side] |= log_e >= self._limits[side]

    def _drawn(
        self,
        rng: np.random.Generator,  # noqa: TID251 -- seeded by `simulate`
        control: NDArray[np.int64],
        challenger: NDArray[np.int64],
        pi: Floats,
    ) -> dict[str, Floats]:
        if isinstance(self._process, Logs):
            return self._process.fold(rng, control, challenger)
        if isinstance(self._process, PairBatch):
            count = rng.multinomial(challenger, self._chances)
            paths = self._process.fold(np.broadcast_to(self._values, count.shape), count)
        else:
            won = rng.binomial(control, self._chances[0]), rng.binomial(challenger, self._chances[1])
            count = np.stack([control - won[0], won[0], challenger - won[1], won[1]], axis=1)
            w = np.broadcast_to(np.array([0.0, 0, 1, 1]), count.shape)
            paths = self._process.fold(w, np.broadcast_to(self._values, count.shape), pi[:, None], count)
        return {side: path[:, -1] for side, path in paths.items()}

    def keep(self, going: NDArray[np.bool_]) -> None:
        """Go on with some of the runs only."""
        self._process.keep(going)
        self.log_e = {side: found[going] for side, found in self.log_e.items()}
        self.reached = {side: found[going] for side, found in self.reached.items()}


def _two_points(metric: Metric, assumed: Assumption, effect: float) -> tuple[Floats, Floats]:
    """Scores of the four kinds of row, and how often each arm has the higher one.

    A score of mean p and deviation s is drawn as p + λ(b − p), with b one or zero and λ = s/√(p(1−p)), at most 1. What
    covariates explain of its variance, R², is not left to chance: to the bets its deviation is s·√(1−R²). Where the
    effect would not fit then, λ is as great as it takes.
    """
    p = _inside(metric, assumed)
    low, high = metric.bounds
    whole = math.sqrt(p * (1 - p))
    spread = whole if assumed.deviation is None else assumed.deviation / (high - low)
    stretch = max(0.05, spread / whole * math.sqrt(1 - assumed.explained), effect / (1 - p), -effect / p)
    stretch = min(1.0, stretch)
    below, above = p * (1 - stretch), p + stretch * (1 - p)
    better = min(max(p + effect / stretch, 0.0), 1.0)
    return np.array([below, above, below, above]), np.array([p, better])


def _differences(metric: Metric, assumed: Assumption, effect: float) -> tuple[Floats, Floats]:
    """By how much the challenger's answer to a request scores better, and how often: an answer is right or wrong.

    Right answers are p in the one arm and q in the other. So the two differ on |q − p| of the requests at least, on
    p + q or 2 − p − q at most, whichever is less, and by chance on p(1 − q) + q(1 − p).
    """
    p = _inside(metric, assumed)
    q = min(max(p + effect, 0.0), 1.0)
    apart = p * (1 - q) + q * (1 - p) if assumed.agreement is None else 1 - assumed.agreement
    apart = min(max(apart, abs(q - p)), p + q, 2 - p - q)
    chances = np.array([(apart - (q - p)) / 2, 1 - apart, (apart + (q - p)) / 2])
    return np.array([-1.0, 0.0, 1.0]), np.maximum(chances, 0.0)  # rounding may leave less than nothing


def _inside(metric: Metric, assumed: Assumption) -> float:
    """The mean score, kept off the ends."""
    return min(max(metric.score(assumed.mean), 0.001), 0.999)
