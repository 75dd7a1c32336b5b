"""The lower bound of a gain: right with the stated confidence, by counting every possible holdout."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, multinomial

from learning.bounds import lower_bound


def chance_of_error(n: int, better: float, worse: float, confidence: float) -> float:
    """The probability that the bound exceeds the true gain, over all holdouts of `n` examples."""
    wrong = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            weight = multinomial.pmf([b, c, n - b - c], n, [better, worse, 1 - better - worse])
            if weight > 1e-9 and lower_bound([1.0] * b + [-1.0] * c + [0.0] * (n - b - c), confidence) > better - worse:
                wrong += weight
    return wrong


@pytest.mark.parametrize("confidence", [0.8, 0.9])
@pytest.mark.parametrize(
    ("better", "worse"), [(0.05, 0.05), (0.3, 0.3), (0.5, 0.5), (0.2, 0.1), (0.35, 0.02), (0.9, 0)]
)
def test_the_bound_is_wrong_no_more_often_than_stated(better, worse, confidence):
    assert chance_of_error(15, better, worse, confidence) <= 1 - confidence + 1e-6


def noisy(draw: np.random.Generator, n: int) -> list[float]:
    """Differences of texts' likeness between two programs that are equally good, with their ends and ties."""
    return [float(a - b) for a, b in draw.beta(0.3, 0.3, (n, 2)).round(2)]


@pytest.mark.parametrize("n", [10, 60])
def test_the_bound_of_partial_scores_is_wrong_no_more_often_than_stated(n):
    draw = np.random.default_rng(n)
    wrong = sum(lower_bound(noisy(draw, n), 0.9) > 0 for _ in range(400))
    assert wrong <= binom.ppf(0.999, 400, 0.1)


def test_the_bound_is_the_least_there_is_where_the_mean_is_a_hair_above_it():
    assert lower_bound([math.nextafter(-1.0, 0.0)], 0.9) == -1.0


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]) | st.floats(-1, 1), max_size=40), st.randoms(use_true_random=False))
def test_the_bound_lies_below_the_mean_whatever_the_order(differences, shuffler):
    bound = lower_bound(differences, 0.9)
    assert -1 <= bound <= (np.mean(differences) if differences else -1) + 1e-9
    shuffled = list(differences)
    shuffler.shuffle(shuffled)
    assert lower_bound(shuffled, 0.9) == pytest.approx(bound, abs=1e-6)
    assert lower_bound(differences, 0.99) <= bound + 1e-6


@pytest.mark.parametrize("differences", [[1.0] * 40 + [-1.0] * 10 + [0.0] * 50, [0.5] * 40 + [-0.3] * 10 + [0.0] * 50])
def test_a_clear_gain_is_bounded_well_above_nothing(differences):
    assert lower_bound(differences, 0.9) > 0.5 * np.mean(differences)


def test_a_better_answer_anywhere_raises_the_bound():
    worse = [1.0] * 10 + [0.0] * 30 + [-1.0] * 5
    assert lower_bound([1.0, *worse[:-1]], 0.9) > lower_bound(worse, 0.9)


@pytest.mark.parametrize(("differences", "bound"), [([], -1), ([-1.0] * 5, -1), ([-0.999] * 5, -1)])
def test_at_the_worst_there_is_nothing_below(differences, bound):
    assert lower_bound(differences, 0.9) == pytest.approx(bound, abs=0.01)
