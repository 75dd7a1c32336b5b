"""The promised error rates, on simulated experiments that are looked at after every block.

Every test counts false alarms among seeded runs and fails above the count that a process of exactly the promised rate
would pass with probability 99.9 %.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from scipy.stats import binom

from experiments import betting, ratio, validity

ALPHA = 0.05
THRESHOLD = math.log(1 / ALPHA)
RUNS, LOOKS, SIZE = 150, 40, 100

Block = tuple[np.ndarray, np.ndarray, np.ndarray]


def most_false_alarms(runs: int = RUNS) -> int:
    return int(binom.ppf(0.999, runs, ALPHA))


def blocks(
    rng: np.random.Generator, scores: Callable[..., np.ndarray], *, ramp: bool, effect: float
) -> Iterator[Block]:
    """An experiment at an even split, or one that ramps from .05 to .5 while the control rises from .60 to .75."""
    for look in range(LOOKS):
        early = ramp and look < LOOKS // 3
        pi = np.full(SIZE, 0.05 if early else 0.5)
        w = rng.random(SIZE) < pi
        control = (0.60 if early else 0.75) if ramp else 0.70
        yield w, scores(rng, control + effect * w), pi


def binary(rng: np.random.Generator, mean: np.ndarray) -> np.ndarray:
    return (rng.random(len(mean)) < mean).astype(float)


def five_point(rng: np.random.Generator, mean: np.ndarray) -> np.ndarray:
    return rng.binomial(4, mean) / 4


@pytest.mark.parametrize("scores", [binary, five_point])
@pytest.mark.parametrize("ramp", [False, True])
def test_equal_arms_are_rarely_called_better_or_harmful(scores, ramp):
    better = harm = 0
    for seed in range(RUNS):
        state, found = betting.begin(), [0.0, 0.0]
        for block in blocks(np.random.default_rng(seed), scores, ramp=ramp, effect=0.0):
            state = state.fold(*block)
            found = [max(found[0], state.log_e_better()), max(found[1], state.log_e_harm())]
        better, harm = better + (found[0] >= THRESHOLD), harm + (found[1] >= THRESHOLD)
    assert better <= most_false_alarms()
    assert harm <= most_false_alarms()


@pytest.mark.parametrize("ramp", [False, True])
def test_an_effect_at_the_margin_rarely_passes_and_one_of_interest_is_rarely_given_up(ramp):
    passed = futile = 0
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        worse, good = betting.begin(margin=0.03), betting.begin(min_effect=0.05)
        found = [0.0, 0.0]
        pairs = zip(
            blocks(rng, binary, ramp=ramp, effect=-0.03), blocks(rng, binary, ramp=ramp, effect=0.05), strict=True
        )
        for at_margin, of_interest in pairs:
            worse, good = worse.fold(*at_margin), good.fold(*of_interest)
            found = [max(found[0], worse.log_e_better()), max(found[1], good.log_e_futile() or 0.0)]
        passed, futile = passed + (found[0] >= THRESHOLD), futile + (found[1] >= THRESHOLD)
    assert passed <= most_false_alarms()
    assert futile <= most_false_alarms()


def test_the_interval_covers_the_effect_at_all_looks():
    missed = 0
    for seed in range(RUNS):
        state, outside = betting.begin(), False
        for block in blocks(np.random.default_rng(seed), binary, ramp=True, effect=0.06):
            state = state.fold(*block)
            lower, upper = state.interval(ALPHA)
            outside |= not lower <= 0.06 <= upper
        missed += outside
    assert missed <= most_false_alarms()


def test_true_effects_are_found():
    promoted = stopped = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        better, harmful = betting.begin(), betting.begin()
        for up, down in zip(
            blocks(rng, binary, ramp=True, effect=0.1), blocks(rng, binary, ramp=True, effect=-0.1), strict=True
        ):
            better, harmful = better.fold(*up), harmful.fold(*down)
        promoted, stopped = (
            promoted + (better.log_e_better() >= THRESHOLD),
            stopped + (harmful.log_e_harm() >= THRESHOLD),
        )
    assert promoted >= 28
    assert stopped >= 28


@pytest.mark.parametrize("ramp", [False, True])
def test_equally_slow_arms_are_rarely_told_apart(ramp):
    def latencies(rng: np.random.Generator, level: np.ndarray) -> np.ndarray:
        return rng.lognormal(4 * level, 1.0)

    better = harm = 0
    for seed in range(RUNS):
        state, found = ratio.begin(), [0.0, 0.0]
        for block in blocks(np.random.default_rng(seed), latencies, ramp=ramp, effect=0.0):
            state = state.fold(*block)
            found = [max(found[0], state.log_e_better() or 0.0), max(found[1], state.log_e_harm() or 0.0)]
        better, harm = better + (found[0] >= THRESHOLD), harm + (found[1] >= THRESHOLD)
    assert better <= most_false_alarms()
    assert harm <= most_false_alarms()


@pytest.mark.parametrize("ramp", [False, True])
def test_a_sound_split_is_rarely_called_broken(ramp):
    runs, broken = 500, 0
    for seed in range(runs):
        rng, state, most = np.random.default_rng(seed), validity.begin(["base", "new", "other"]), 0.0
        for look in range(LOOKS):
            shares = [0.9, 0.05, 0.05] if ramp and look < LOOKS // 2 else [0.5, 0.25, 0.25]
            counts = rng.multinomial(SIZE, shares).tolist()
            state = state.fold(dict(zip(state.arms, counts, strict=True)), dict(zip(state.arms, shares, strict=True)))
            most = max(most, state.log_e())
        broken += most >= THRESHOLD
    assert broken <= most_false_alarms(runs)
