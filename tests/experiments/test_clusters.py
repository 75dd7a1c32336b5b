"""The score process over clusters: what it says, when it refuses, and how rarely it misses."""

import numpy as np
import pytest
from scipy.stats import binom

from experiments.clusters import CAP, UnitSum, weigh

EVEN = {1: {"base": 0.5, "new": 0.5}}


def users(rng: np.random.Generator, number: int, effect: float, *, share: float = 0.5, epoch: int = 1) -> list[UnitSum]:
    """Users of very different activity (Pareto), each with an own rate of success around .6."""
    made = []
    for user in range(number):
        arm = "new" if rng.random() < share else "base"
        visits = 1 + int(3 * rng.pareto(1.5))
        rate = np.clip(rng.beta(3, 2) + effect * (arm == "new"), 0, 1)
        made.append(UnitSum(f"{epoch}-{user}", arm, epoch, visits, float(rng.binomial(visits, rate))))
    return made


def test_two_prolific_users_do_not_outvote_everybody() -> None:
    rng = np.random.default_rng(1)
    crowd = users(rng, 2000, 0.1)
    shouting = [UnitSum("a", "new", 1, 5000, 0.0), UnitSum("b", "base", 1, 5000, 5000.0)]
    calm, loud = (weigh(rows, EVEN, "base", "new", 0.05) for rows in (crowd, crowd + shouting))
    assert calm.estimate is not None
    assert loud.estimate is not None
    assert calm.estimate == pytest.approx(0.1, abs=0.05)
    assert abs(loud.estimate - calm.estimate) < 4 * CAP / 2000


def test_too_few_units_or_one_that_dominates_are_refused_with_the_reason() -> None:
    few = weigh(users(np.random.default_rng(2), 150, 0.0), EVEN, "base", "new", 0.05)
    assert (few.estimate, few.lower) == (None, None)
    assert "fewer than 100 units" in (few.refused or "")
    flat = [UnitSum(f"u{n}", "new" if n % 2 else "base", 1, 1, 1.0) for n in range(400)]
    loner = UnitSum("x", "new", 1, 1, 0.0)
    assert "of the variance" in (weigh([*flat, loner], EVEN, "base", "new", 0.05).refused or "")
    assert weigh([], EVEN, "base", "new", 0.05).units == {"base": 0, "new": 0}


def test_a_ramp_with_a_trend_is_no_effect_and_the_interval_rarely_misses() -> None:
    rng = np.random.default_rng(3)
    splits = {1: {"base": 0.9, "new": 0.1}, 2: {"base": 0.5, "new": 0.5}}
    runs, misses, estimates = 300, 0, []
    for _ in range(runs):
        early = users(rng, 1500, 0.0, share=0.1)
        later = [
            UnitSum(row.unit_hash, row.arm, 2, row.n, min(row.n, row.total + rng.binomial(row.n, 0.2)))
            for row in users(rng, 800, 0.0, share=0.5, epoch=2)
        ]
        found = weigh(early + later, splits, "base", "new", 0.05)
        assert found.estimate is not None
        assert found.lower is not None
        assert found.upper is not None
        estimates.append(found.estimate)
        misses += not found.lower <= 0 <= found.upper
    assert misses <= binom.ppf(0.999, runs, 0.05)
    assert abs(np.mean(estimates)) < 4 * np.std(estimates) / np.sqrt(runs)
