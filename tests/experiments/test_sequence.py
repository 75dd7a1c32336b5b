import math

import hypothesis.strategies as st
import pytest
from hypothesis import given
from scipy.special import zeta

from experiments.sequence import level, share, wealth


def lord_share(t: int) -> float:
    """The default weights of online-fdr 1.0 (Javanmard & Montanari 2018, equation 31): not ours, but the same rule."""
    return 0.07720838 * math.log(max(t, 2)) / (t * math.exp(math.sqrt(math.log(t))))


def test_levels_follow_the_rule_of_online_fdr():
    # statistics.md section 5 item 6: online-fdr ELond(.05), e = [3, 900, 50, 1e6, 10, 2e4], rejects the 4th and 6th.
    oracle = [
        0.002675838545630043,
        0.0005819102891470871,
        0.0004956249397230357,
        0.0004121803029483667,
        0.0006988869709347985,
        0.0006045900341664856,
    ]
    rejections = 0
    for t, (expected, e) in enumerate(zip(oracle, [3, 900, 50, 1e6, 10, 2e4], strict=True), start=1):
        assert level(0.05, t, rejections) / share(t) * lord_share(t) == pytest.approx(expected, rel=1e-6)
        rejections += e >= 1 / expected
    assert rejections == 2


def test_all_shares_together_spend_everything_once():
    # Euler-Maclaurin: sum over k > K of f(k) = integral of f from K - f(K)/2 - f'(K)/12 + ..., half for either part.
    last = 100_000
    slow = 1 / (last * math.log(last) ** 2)
    slope = -slow * (1 + 2 / math.log(last)) / last
    slow_tail = (1 / math.log(last) - slow / 2 - slope / 12) / 2.109742801236892
    level_tail = 2 / math.sqrt(last + 5 - 0.5) / float(zeta(1.5, 6))
    spent = math.fsum(share(t) for t in range(1, last))
    assert spent + (slow_tail + level_tail) / 2 == pytest.approx(1, abs=1e-10)


@given(st.floats(0.001, 0.5), st.integers(1, 300), st.integers(0, 20))
def test_wealth_is_what_later_levels_will_spend(alpha, t, rejections):
    spent = wealth(alpha, t - 1, rejections) - wealth(alpha, t, rejections)
    assert spent == pytest.approx(level(alpha, t, rejections), rel=1e-6)
    assert wealth(alpha, t, rejections) > 0
    assert wealth(alpha, 0, 0) == alpha


@given(st.integers(1, 10_000), st.integers(0, 50))
def test_levels_fall_with_time_and_rise_with_promotions(t, rejections):
    assert 0 < level(0.05, t + 1, rejections) < level(0.05, t, rejections) < level(0.05, t, rejections + 1)


@pytest.mark.parametrize("t", [0, -1])
def test_experiments_are_numbered_from_one(t):
    with pytest.raises(ValueError, match="numbered from 1"):
        level(0.05, t, 0)
