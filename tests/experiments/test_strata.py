import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from experiments.strata import Moments, absorb, arms, contrast, group

VALUES = st.lists(st.floats(-100, 100), max_size=30)


def moments(values: list[float]) -> Moments:
    control, _ = arms(absorb((), group([0] * len(values), values, [0.5] * len(values))))
    return control


@given(VALUES, VALUES)
def test_moments_of_two_parts_add_up_to_those_of_the_whole(first, second):
    whole, parts = moments(first + second), moments(first) + moments(second)
    assert (whole.n, whole.least, whole.greatest) == (parts.n, parts.least, parts.greatest)
    assert whole.total == pytest.approx(parts.total, abs=1e-9)
    assert whole.squares == pytest.approx(parts.squares, abs=1e-6)


def test_equal_rows_become_one_cell_and_zero_has_one_sign():
    (cells,) = group([1, 0, 1, 1], [0.0, 0.5, -0.0, 1.0], [0.5] * 4)
    assert cells.w.tolist() == [0, 1, 1]
    assert cells.count.tolist() == [1, 2, 1]
    assert not np.signbit(cells.y).any()


def test_strata_stand_in_the_order_of_their_propensities_whatever_came_first():
    late_first = absorb(absorb((), group([1], [1.0], [0.5])), group([0], [1.0], [0.1]))
    early_first = absorb(absorb((), group([0], [1.0], [0.1])), group([1], [1.0], [0.5]))
    assert late_first == early_first
    assert [stratum.pi for stratum in late_first] == [0.1, 0.5]


def test_a_contrast_is_the_classical_difference_of_means_within_one_stratum():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 300), rng.normal(0.2, 2, 500)
    found = contrast(absorb((), group([0] * 300 + [1] * 500, [*a, *b], [0.6] * 800)))
    assert found.difference == pytest.approx(b.mean() - a.mean(), rel=1e-12)
    assert found.scatter / found.weight**2 == pytest.approx(a.var() / 300 + b.var() / 500, rel=1e-9)
    assert 0 < found.leverage < 0.05


def test_leverage_shows_one_value_that_outweighs_all_others():
    found = contrast(absorb((), group([0] * 100 + [1] * 100, [0.0, 1.0] * 99 + [0.0, 1000.0], [0.5] * 200)))
    assert found.leverage > 0.9


def test_there_is_no_contrast_without_a_stratum_that_holds_both_arms():
    assert contrast(()) is None
    assert contrast(absorb((), group([0, 1], [1.0, 2.0], [0.1, 0.5]))) is None
