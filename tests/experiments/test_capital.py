import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from scipy.special import logsumexp

from experiments import betting, pairs
from experiments.capital import BETS, growth, mixed, nulls, pack, prior, raised, unpack, untouched
from experiments.strata import Floats

CAPITAL = arrays(np.float64, (3, BETS), elements=st.floats(-1e5, 1e5))


@given(CAPITAL)
def test_what_is_kept_is_read_back_bit_for_bit(capital: Floats) -> None:
    assert (unpack(pack(capital), BETS) == capital).all()
    assert raised(untouched(3), capital) == pack(capital + 0.0)


def test_capital_that_met_no_data_is_worth_exactly_nothing() -> None:
    _, weights = prior(0.03)
    assert mixed(unpack(untouched(5), BETS), weights).tolist() == [0.0] * 5


@given(CAPITAL)
def test_what_bets_are_worth_together_agrees_with_scipy(capital: Floats) -> None:
    _, weights = prior(0.05)
    expected = logsumexp(capital, axis=1, b=weights / weights.sum())
    assert mixed(capital, weights) == pytest.approx(expected, rel=1e-12, abs=1e-9)


def test_growth_is_the_plain_sum_over_rows_however_many_there_are() -> None:
    rng = np.random.default_rng(1)
    x, count, stakes = rng.uniform(-0.5, 0.5, (150, 2)), rng.integers(1, 9, 150).astype(float), rng.random((2, 3))
    for null in range(2):
        for bet in range(3):
            logs = [n * math.log1p(row * stakes[null, bet]) for row, n in zip(x[:, null], count, strict=True)]
            assert growth(x, count, stakes)[null, bet] == pytest.approx(math.fsum(logs), rel=1e-12)
    assert not growth(x[:0], count[:0], stakes).any()


@pytest.mark.parametrize("effects", [betting.EFFECTS, pairs.EFFECTS])
@pytest.mark.parametrize("margin", [0.0, 0.02, 1 / 30])
def test_nulls_rise_mirror_each_other_and_hold_the_margin(effects: tuple[float, ...], margin: float) -> None:
    found = nulls(effects, margin)
    assert (np.diff(found) > 0).all()
    assert (found == -found[::-1]).all()
    assert {0.0, margin, -margin} <= set(found.tolist())
    assert nulls(effects, margin) is found
    assert not found.flags.writeable
