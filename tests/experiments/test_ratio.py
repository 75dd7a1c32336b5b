import math
from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings

from experiments import ratio
from experiments.ratio import CERTAIN, LEAST_UNITS, Ratio


def sampled(seed: int, *, times: float = 1.0, sigma: float = 0.7, size: int = 4000, **terms: Any) -> Ratio:
    """Lognormal latencies in µs, the challenger's `times` as long."""
    rng = np.random.default_rng(seed)
    state = ratio.begin(**terms)
    for _ in range(10):
        w = rng.random(size // 10) < 0.5
        y = rng.lognormal(13, sigma, size // 10) * np.where(w, times, 1.0)
        state = state.fold(w, y, np.full(size // 10, 0.5))
    return state


def constant(control: float, challenger: float, *, units: int = LEAST_UNITS, **terms: Any) -> Ratio:
    w = np.arange(2 * units) % 2
    return ratio.begin(**terms).fold(w, np.where(w == 1, challenger, control), np.full(2 * units, 0.5))


def test_the_mixture_agrees_with_confseq():
    # statistics.md section 5 item 4: confseq 0.0.11 normal_log_mixture(50, 400, 300, .025, True).
    assert ratio._mixture(50.0, 400.0, 37.80168293776902) == pytest.approx(2.315146665350164, rel=1e-12)


def test_no_number_comes_from_too_few_units():
    state = constant(1.0, 2.0, units=LEAST_UNITS - 1, margin=0.1, min_effect=0.1)
    assert (state.log_e_better(), state.log_e_harm(), state.log_e_futile()) == (None, None, None)
    assert state.interval(0.05) == (None, None)
    assert state.estimate_debiased() is None
    assert state.estimate() == pytest.approx(1.0)
    assert ratio.begin().estimate() is None


def test_no_number_hangs_on_a_single_unit():
    rng = np.random.default_rng(1)
    w, y = np.arange(400) % 2, np.exp(rng.normal(0, 0.01, 400))
    calm = ratio.begin().fold(w, y, np.full(400, 0.5))
    y[7] = 1e6
    shaken = ratio.begin().fold(w, y, np.full(400, 0.5))
    assert calm.log_e_better() is not None
    assert shaken.log_e_better() is None
    assert shaken.interval(0.05) == (None, None)


def test_a_slower_challenger_does_harm_and_a_faster_one_is_better():
    slower, faster = sampled(1, times=1.3, margin=0.1), sampled(1, times=0.8)
    assert slower.log_e_harm() > math.log(100) > slower.log_e_better()
    assert faster.log_e_better() > math.log(100) > faster.log_e_harm()
    assert faster.estimate() == pytest.approx(-0.2, abs=0.06)


def test_where_more_is_better_the_sides_change_places_and_the_estimate_does_not():
    fewer, more = sampled(2, times=1.3), sampled(2, times=1.3, lower_is_better=False)
    assert more.log_e_better() == pytest.approx(fewer.log_e_harm(), rel=1e-9)
    assert more.estimate() == fewer.estimate()
    assert more.interval(0.05) == fewer.interval(0.05)


def test_no_saving_is_given_up_and_equal_arms_pass_their_margin():
    state = sampled(3, size=20_000, margin=0.1, min_effect=0.1)
    assert state.log_e_futile() > math.log(10)
    assert state.log_e_better() > math.log(20)
    assert ratio.begin().log_e_futile() is None


def test_the_interval_inverts_the_evidence_that_decides():
    lower, upper = sampled(4, times=1.2).interval(0.05)
    assert 0 < lower < sampled(4, times=1.2).estimate() < upper
    at_lower = sampled(4, times=1.2, margin=lower)
    at_upper = sampled(4, times=1.2, margin=upper)
    assert at_lower.log_e_harm() == pytest.approx(math.log(40), abs=1e-6)
    assert at_upper.log_e_better() == pytest.approx(math.log(40), abs=1e-6)


def test_the_unit_of_measurement_makes_no_difference():
    rng = np.random.default_rng(5)
    w, y = rng.random(1000) < 0.5, rng.lognormal(0, 1, 1000)
    seconds, micros = (ratio.begin().fold(w, scale * y, np.full(1000, 0.5)) for scale in (1.0, 1e6))
    assert seconds.interval(0.05) == pytest.approx(micros.interval(0.05), abs=1e-9)


def test_two_arms_that_both_cost_nothing_pass():
    state = constant(0.0, 0.0, margin=0.2)
    assert state.log_e_better() == CERTAIN
    assert state.log_e_harm() == -CERTAIN
    assert state.estimate() is None
    assert constant(0.0, 0.0).log_e_better() == 0.0, "equal is not better"


def test_a_free_challenger_passes_against_a_priced_champion_and_never_the_other_way_round():
    rng = np.random.default_rng(6)
    w = np.arange(400) % 2
    price = rng.lognormal(0, 1, 400)
    free_challenger = ratio.begin(margin=0.2).fold(w, np.where(w == 1, 0, price), np.full(400, 0.5))
    free_champion = ratio.begin(margin=0.2).fold(w, np.where(w == 1, price, 0), np.full(400, 0.5))
    assert (free_challenger.log_e_better(), free_challenger.log_e_harm()) == (CERTAIN, -CERTAIN)
    assert (free_champion.log_e_better(), free_champion.log_e_harm()) == (-CERTAIN, CERTAIN)


def test_a_few_zeros_are_set_aside_and_many_yield_no_number():
    rng = np.random.default_rng(7)
    w, y = np.arange(1000) % 2, rng.lognormal(0, 1, 1000)
    few, many = y.copy(), y.copy()
    few[:20], many[:200] = 0, 0
    assert ratio.begin(margin=0.1).fold(w, few, np.full(1000, 0.5)).log_e_better() is not None
    assert ratio.begin(margin=0.1).fold(w, many, np.full(1000, 0.5)).log_e_better() is None


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 1e-300, 0.5, 3.0, 1e300])), max_size=50),
    st.integers(1, 10),
    st.randoms(use_true_random=False),
)
@settings(max_examples=50)
def test_evidence_is_finite_order_free_and_survives_json(rows, times, random):
    states = []
    for order in (rows, random.sample(rows, len(rows))):
        state = ratio.begin(margin=0.1, min_effect=0.2)
        for _ in range(times):
            state = state.fold([w for w, _ in order], [y for _, y in order], [0.4] * len(order))
        states.append(state)
    assert states[0] == states[1]
    assert msgspec.json.decode(msgspec.json.encode(states[0]), type=Ratio) == states[0]
    numbers = [states[0].log_e_better(), states[0].log_e_harm(), states[0].log_e_futile(), *states[0].interval(0.05)]
    assert all(number is None or math.isfinite(number) for number in numbers)


def test_arms_of_constant_values_are_compared_like_any_others():
    equal, dearer = constant(2.0, 2.0, margin=0.1), constant(2.0, 2.6, margin=0.1)
    assert equal.log_e_better() > math.log(20) > equal.log_e_harm()
    assert dearer.log_e_harm() > math.log(20) > dearer.log_e_better()


@pytest.mark.parametrize("y", [-1.0, math.nan, math.inf])
def test_values_below_zero_or_not_finite_are_refused(y):
    with pytest.raises(ValueError, match="at least 0"):
        ratio.begin().fold([0], [y], [0.5])


@pytest.mark.parametrize("terms", [{"margin": -0.1}, {"margin": math.inf}, {"min_effect": 0.0}])
def test_margins_that_are_no_ratios_are_refused(terms):
    with pytest.raises(ValueError, match="is not a ratio"):
        ratio.begin(**terms)
