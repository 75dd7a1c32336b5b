import math
from itertools import combinations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from experiments.sequence import level, share, wealth

SERIES = st.lists(st.booleans(), max_size=40)


def levels_of(promotions: list[bool], alpha: float = 0.05) -> list[float]:
    """The level of every experiment of a series in which these promote, and of the one after."""
    past: list[float | None] = []
    levels = []
    for promoted in promotions:
        levels.append(level(alpha, past))
        past.append(levels[-1] if promoted else None)
    return [*levels, level(alpha, past)]


def lord_share(t: int) -> float:
    """The default weights of online-fdr 1.0 (Javanmard & Montanari 2018, equation 31): not ours, but the same rule."""
    return 0.07720838 * math.log(max(t, 2)) / (t * math.exp(math.sqrt(math.log(t))))


def test_until_something_is_promoted_levels_are_those_of_online_fdr() -> None:
    # statistics.md section 5 item 6: online-fdr ELond(.05), e = [3, 900, 50, 1e6, 10, 2e4], rejects the 4th and 6th.
    oracle = [0.002675838545630043, 0.0005819102891470871, 0.0004956249397230357, 0.0004121803029483667]
    for t, (expected, found) in enumerate(zip(oracle, levels_of([False] * 3), strict=True), start=1):
        assert found / share(t) * lord_share(t) == pytest.approx(expected, rel=1e-6)


def test_all_shares_together_spend_everything_once() -> None:
    # Euler-Maclaurin: sum over k > K of f(k) = integral of f from K - f(K)/2 - f'(K)/12 + ...; the rest telescopes.
    last = 100_000
    early = 1 / (last * math.log(last) ** 2)
    slope = -early * (1 + 2 / math.log(last)) / last
    early_tail = (1 / math.log(last) - early / 2 - slope / 12) / 2.109742801236892
    spent = math.fsum(share(t) for t in range(1, last))
    assert spent + 0.2 * early_tail + 0.8 * 30 / (last + 29) == pytest.approx(1, abs=1e-10)


@given(st.lists(st.booleans(), max_size=8))
def test_a_level_is_the_greatest_at_which_every_set_of_experiments_pays_for_its_promotions(
    promotions: list[bool],
) -> None:
    levels = levels_of(promotions)
    last, promoted = len(promotions), [*promotions, True]
    slack = []
    for size in range(last + 1):
        for others in combinations(range(last), size):
            members = (*others, last)
            pays = math.fsum(share(k) * promoted[i] / levels[i] for k, i in enumerate(members, start=1))
            slack.append(pays - sum(promoted[i] for i in members) / (0.05 * sum(promoted)))
    assert min(slack) == pytest.approx(0, abs=1e-9 / 0.05)


@given(SERIES)
def test_a_level_is_never_below_that_of_e_lond(promotions: list[bool]) -> None:
    for t, found in enumerate(levels_of(promotions), start=1):
        assert found >= 0.05 * share(t) * (1 + sum(promotions[: t - 1])) * (1 - 1e-9)


@given(SERIES)
def test_nothing_is_granted_for_nothing_and_a_promotion_never_lowers_what_follows(promotions: list[bool]) -> None:
    assert levels_of([False] * len(promotions))[-1] == pytest.approx(0.05 * share(len(promotions) + 1))
    assert levels_of([*promotions, True])[-1] > levels_of([*promotions, False])[-1]


@given(st.floats(0.001, 0.5), st.integers(1, 300), st.integers(0, 20))
def test_wealth_is_what_e_lond_has_left(alpha: float, t: int, rejections: int) -> None:
    spent = wealth(alpha, t - 1, rejections) - wealth(alpha, t, rejections)
    assert spent == pytest.approx(alpha * share(t) * (rejections + 1), rel=1e-6)
    assert wealth(alpha, t, rejections) > 0
    assert wealth(alpha, 0, 0) == alpha


def test_few_of_what_a_series_promotes_is_false_however_its_e_values_depend_on_each_other() -> None:
    # The harshest e-values for a null: all or nothing, at exactly the level asked for. In half of the series all nulls
    # share one draw, and in all of them one experiment in four is better for certain.
    rng, shares = np.random.default_rng(1), []
    for number in range(200):
        past: list[float | None] = []
        common, false = rng.random(), 0
        for t in range(60):
            needed = level(0.05, past)
            draw = common if number % 2 else rng.random()
            better = t % 4 == 3
            promoted = better or draw < needed
            false += promoted and not better
            past.append(needed if promoted else None)
        shares.append(false / max(1, sum(one is not None for one in past)))
    assert np.mean(shares) <= 0.05 + 3 * np.std(shares) / math.sqrt(len(shares))


@pytest.mark.parametrize("t", [0, -1])
def test_experiments_are_numbered_from_one(t: int) -> None:
    with pytest.raises(ValueError, match="numbered from 1"):
        share(t)
