import math

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given
from scipy.special import logsumexp

from experiments import validity
from experiments.validity import LOG_WEIGHTS, TILTS, Balance

COUNTS = st.fixed_dictionaries({arm: st.integers(0, 500) for arm in ("base", "new", "other")})
SPLITS = st.sampled_from(
    [{"base": 0.9, "new": 0.05, "other": 0.05}, {"base": 0.5, "new": 0.3, "other": 0.2}, {"base": 0.0, "new": 1.0}]
)


def test_no_units_are_no_evidence():
    assert validity.begin(["base", "new"]).log_e() == pytest.approx(0, abs=1e-12)
    assert validity.begin(["base", "new", "other"]).log_e() == pytest.approx(0, abs=1e-12)


def test_one_fold_is_the_mixture_of_likelihood_ratios():
    found = validity.begin(["base", "new"]).fold({"base": 60, "new": 30}, {"base": 0.8, "new": 0.2}).log_e()
    ratios = []
    for tilt in TILTS:
        odds = 0.2 / 0.8 * math.exp(tilt)
        p = odds / (1 + odds)
        ratios.append(30 * math.log(p / 0.2) + 60 * math.log((1 - p) / 0.8))
    assert found == pytest.approx(logsumexp(LOG_WEIGHTS + ratios), rel=1e-12)


@given(st.floats(0.001, 0.999), st.integers(0, 6))
def test_a_fair_coin_expects_no_gain(p, n):
    split = {"base": 1 - p, "new": p}
    expected = sum(
        math.comb(n, k) * p**k * (1 - p) ** (n - k)
        * math.exp(validity.begin(["base", "new"]).fold({"base": n - k, "new": k}, split).log_e())
        for k in range(n + 1)
    )  # fmt: skip
    assert expected == pytest.approx(1, abs=1e-9)


def test_a_shifted_split_is_found_and_a_ramp_is_not_blamed():
    shifted = validity.begin(["base", "new"]).fold({"base": 5200, "new": 4800}, {"base": 0.5, "new": 0.5})
    assert shifted.log_e() > math.log(1000) / 2
    worse = shifted.fold({"base": 5200, "new": 4800}, {"base": 0.5, "new": 0.5})
    assert worse.log_e() > math.log(1000)
    ramp = validity.begin(["base", "new"]).fold({"base": 9500, "new": 500}, {"base": 0.95, "new": 0.05})
    ramp = ramp.fold({"base": 5010, "new": 4990}, {"base": 0.5, "new": 0.5})
    assert ramp.log_e() < 0


def test_one_wrong_pair_of_three_arms_is_found():
    split = {"base": 0.6, "new": 0.2, "other": 0.2}
    state = validity.begin(list(split)).fold({"base": 6000, "new": 2000, "other": 1600}, split)
    assert state.log_e() > math.log(1000)


@given(COUNTS, COUNTS, SPLITS)
def test_folding_in_parts_is_folding_at_once(first, second, split):
    start = validity.begin(["base", "new", "other"])
    parts = start.fold(first, split).fold(second, split)
    whole = start.fold({arm: first[arm] + second[arm] for arm in first}, split)
    assert parts.log_e() == pytest.approx(whole.log_e(), rel=1e-9, abs=1e-9)
    assert parts.totals() == whole.totals() == {arm: first[arm] + second[arm] for arm in first}


@given(COUNTS, SPLITS)
def test_evidence_is_finite_and_survives_json(counts, split):
    state = validity.begin(["base", "new", "other"]).fold(counts, split)
    assert math.isfinite(state.log_e())
    assert msgspec.json.decode(msgspec.json.encode(state), type=Balance) == state


def test_units_in_an_arm_without_a_share_count_as_evidence():
    state = validity.begin(["base", "new"]).fold({"base": 0, "new": 100}, {"base": 1.0, "new": 0.0})
    assert state.log_e() > math.log(1000)


@pytest.mark.parametrize("arms", [[], ["base"], ["base", "base"]])
def test_a_balance_needs_two_arms(arms):
    with pytest.raises(ValueError, match="arms"):
        validity.begin(arms)
