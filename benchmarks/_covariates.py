"""What is known before assignment: how many units it saves, and that it never costs the promise."""

import math

import numpy as np

from benchmarks._goals import Goal, Row, Size, highest, seeded
from benchmarks._worlds import coin, drift
from experiments import betting
from experiments.betting import Betting
from experiments.strata import Floats

LEVELS = np.array([0.25, 0.67, 0.93, 0.95])
"""Chances of success of the control in four strata of difficulty, .70 on average."""
EFFECT = 0.05
MOST_UNITS = 100_000
NAMES = ("difficulty", "size")


def covariates(size: Size) -> list[Row]:
    """Units to find +.05 at one-sided .025 with and without the strata; false alarms where nothing known is of use."""
    return [_units(size.runs(1500)), _false_alarms(size.runs(1000))]


def _units(runs: int) -> Row:
    rng = seeded("covariates, units")
    seeds = rng.integers(2**32, size=runs)
    with_them, without = (np.array([_taken(int(seed), names) for seed in seeds]) for names in (NAMES[:1], ()))
    ratio = float(with_them.mean() / without.mean())
    detail = {
        "explained": _explained(),
        "adjusted": with_them.mean() / 2,
        "unadjusted": without.mean() / 2,
        "standard_error": float((with_them - ratio * without).std() / without.mean() / math.sqrt(runs)),
    }
    return Row(
        Goal("covariates with R² = .40: units over unadjusted", "<= 0.66"), ratio, {"prototype": 0.64}, detail, runs
    )


def _taken(seed: int, names: tuple[str, ...]) -> int:
    """Units of both arms until the effect is found, looked for when a block is closed."""
    rng, state, n = np.random.default_rng(seed), betting.begin(names=names), 0
    while n < MOST_UNITS and state.log_e_better() < math.log(40):
        state, size = _folded(rng, state, n, effect=EFFECT, shares=0.5)
        n += size
    return n


def _folded(
    rng: np.random.Generator, state: Betting, n: int, *, effect: float, shares: str | float, trend: str = ""
) -> tuple[Betting, int]:
    """One block more, of ten units at first and later of a twentieth of what there is; with a trend it tells nothing.

    What is then known of a unit is a stratum at random, and a number that rises with time as the scores do.
    """
    size = max(10, n // 20)
    pi, kind = coin(shares, n, size), rng.integers(len(LEVELS), size=size)
    w = rng.random(size) < pi
    level = LEVELS[kind] if not trend else 0.6 + drift(trend, n, size)
    y = rng.random(size) < level + effect * w
    number = rng.normal(n / 1000, 1.0, size)
    known: list[dict[str, float | str]] = [
        {NAMES[0]: f"level {k}", NAMES[1]: float(v)} for k, v in zip(kind, number, strict=True)
    ]
    return state.fold(w, y, pi, known), size


def _explained() -> float:
    """R²: the part of a score's variance that the strata explain, the mean over the arms."""
    parts: list[Floats] = [LEVELS, LEVELS + EFFECT]
    return float(np.mean([rates.var() / (rates.mean() * (1 - rates.mean())) for rates in parts]))


def _false_alarms(runs: int) -> Row:
    """Equal arms, a ramp from .05 to .5 and a step of .15 in both arms with it, 6,000 units."""
    rng, alarms = seeded("covariates, useless"), 0
    for _ in range(runs):
        state, n, most = betting.begin(names=NAMES), 0, 0.0
        while n < 6000:
            state, size = _folded(rng, state, n, effect=0.0, shares="5-50", trend="step")
            n, most = n + size, max(most, state.log_e_better(), state.log_e_harm())
        alarms += most >= math.log(40)
    goal = Goal("covariates of no use, ramp and trend: false alarms, two-sided .05", f"<= {highest(0.05, runs):g}")
    return Row(goal, alarms / runs, runs=runs)
