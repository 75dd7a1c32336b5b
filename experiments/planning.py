"""What an experiment is likely to take and to end in, before it is started: it is simulated under its own settings."""

import math
from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from experiments.experiment import Experiment
from experiments.simulation import Assumption, Chance, Ends, simulate
from experiments.strata import Floats

RUNS = 400
POWER = 0.8
"""How often an effect must be promoted to be called detectable."""
CHANCES: tuple[Chance, ...] = ("promote", "rollback", "futile", "inconclusive")


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
            _scenario(effect, simulate(experiment, assumed, units_per_day, effect, seed=seed + number, runs=runs))
            for number, effect in enumerate((-least, 0.0, least, 2 * least))
        ),
        detectable_effect=_detectable(experiment, assumed, units_per_day, seed, max(100, runs // 2)),
        runs=runs,
    )


def _scenario(effect: float, ends: Ends) -> Scenario:
    chances = {chance: float((ends.verdicts == chance).mean()) for chance in CHANCES}
    return Scenario(effect, _range(ends.units), _range(ends.days, 3), chances)


def _range(values: Floats | NDArray[np.int64], digits: int = 1) -> Range:
    low, high = np.quantile(values, [0.1, 0.9])
    return Range(*(round(float(value), digits) for value in (values.mean(), low, high)))


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
