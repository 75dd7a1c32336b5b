"""Calling several challengers better: the shortcut equals the definition, and beats e-Bonferroni everywhere."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.closure import closed_means

LOG_E = st.lists(st.floats(-30, 60), min_size=1, max_size=6)


def by_definition(log_e: list[float], k: int) -> float:
    """The least mean over every set with k in it."""
    others = [j for j in range(len(log_e)) if j != k]
    sets = [(k, *rest) for size in range(len(log_e)) for rest in combinations(others, size)]
    return min(float(np.logaddexp.reduce([log_e[j] for j in s])) - math.log(len(s)) for s in sets)


@given(LOG_E)
def test_the_shortcut_is_the_least_mean_over_all_sets(log_e: list[float]) -> None:
    assert closed_means(log_e) == pytest.approx([by_definition(log_e, k) for k in range(len(log_e))], abs=1e-9)


@given(LOG_E)
def test_no_challenger_needs_more_than_by_itself_and_none_gets_by_with_less_than_its_part(log_e: list[float]) -> None:
    for value, closed in zip(log_e, closed_means(log_e), strict=True):
        assert value - math.log(len(log_e)) - 1e-9 <= closed <= value + 1e-9


def test_one_challenger_is_judged_by_its_own_evidence() -> None:
    assert closed_means([2.5]) == [2.5]


def test_two_good_challengers_help_each_other() -> None:
    closed = closed_means([math.log(25), math.log(22)])
    assert [math.exp(log_e) for log_e in closed] == pytest.approx([23.5, 22.0])
