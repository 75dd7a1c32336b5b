import math

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given
from scipy.special import logsumexp

from experiments import betting
from experiments.betting import Betting, forecast, log_growth
from experiments.capital import AIM, BETS, prior
from experiments.strata import Cells, group

ROWS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.2, 1 / 3, 0.5, 1.0]), st.sampled_from([0.05, 0.5, 0.9])),
    max_size=60,
)


def folded(state: Betting, rows: list[tuple[bool, float, float]]) -> Betting:
    w, y, pi = zip(*rows, strict=True) if rows else ((), (), ())
    return state.fold(np.array(w), np.array(y), np.array(pi))


def sampled(seed: int, *, control: float, challenger: float, blocks: int = 40, size: int = 100) -> Betting:
    rng = np.random.default_rng(seed)
    state = betting.begin(min_effect=0.05)
    for _ in range(blocks):
        w = rng.random(size) < 0.5
        state = state.fold(w, rng.random(size) < np.where(w, challenger, control), np.full(size, 0.5))
    return state


def test_one_bet_on_a_binary_score_is_the_likelihood_ratio_of_the_labels():
    # statistics.md section 3: the factors are p_b/m, (1-p_b)/(1-m), p_a/m, (1-p_a)/(1-m).
    pi, m, k = 0.3, 0.6, 0.08
    p_b, p_a = m + (1 - pi) * k, m - pi * k
    cells = Cells(pi=pi, w=np.array([0.0, 0, 1, 1]), y=np.array([0.0, 1, 0, 1]), count=np.array([7.0, 11, 3, 9]))
    ratio = (
        7 * math.log((1 - p_a) / (1 - m))
        + 11 * math.log(p_a / m)
        + 3 * math.log((1 - p_b) / (1 - m))
        + 9 * math.log(p_b / m)
    )
    growth = log_growth(cells, m, m * (1 - m), np.array([0.0]), np.array([k]))
    assert growth[0, 0] == pytest.approx(ratio, rel=1e-12)


def test_the_bets_agree_with_the_prototype_of_the_design():
    # Self-reference, statistics.md section 5 item 7: m = .7, s^2 = .21, pi = .5, its own bets and weights.
    bets = np.geomspace(0.005, 0.32, 12)
    laws = [bets * np.exp(-0.5 * (bets / tau) ** 2) for tau in (0.03, 0.12)]
    weights = np.mean([law / law.sum() for law in laws], axis=0)
    y = np.array([0.0, 1, 0, 1])
    cells = Cells(pi=0.5, w=np.array([0.0, 0, 1, 1]), y=y, count=np.array([300.0, 700, 250, 750]))
    mirrored = Cells(pi=0.5, w=cells.w, y=1 - y, count=cells.count)
    up, up_margin = logsumexp(log_growth(cells, 0.7, 0.21, np.array([0.0, -0.02]), bets) + np.log(weights), axis=1)
    down = logsumexp(log_growth(mirrored, 0.3, 0.21, np.array([0.0]), bets) + np.log(weights), axis=1)[0]
    assert up == pytest.approx(2.1633759449065604, abs=1e-12)
    assert down == pytest.approx(-2.627059517064494, abs=1e-12)
    assert up_margin == pytest.approx(4.6674363769545515, abs=1e-12)


def test_no_data_is_no_evidence():
    state = betting.begin(margin=0.02, min_effect=0.03)
    assert (state.log_e_better(), state.log_e_harm(), state.log_e_futile()) == (0.0, 0.0, 0.0)
    assert state.interval(0.05) == (-1.0, 1.0)
    assert state.estimate() is None
    assert state.estimate_debiased() is None
    assert betting.begin().log_e_futile() is None
    assert folded(state, []) == state


@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_rows_in_a_block_makes_no_difference_to_the_last_bit(rows, random):
    shuffled = random.sample(rows, len(rows))
    state = betting.begin(margin=0.01, min_effect=0.05)
    assert folded(state, rows) == folded(state, shuffled)


@given(ROWS)
def test_a_row_seen_many_times_counts_as_often(rows):
    once = betting.begin().fold([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])
    thrice = folded(betting.begin(), rows * 3)
    ups = [np.frombuffer(state.up, "<f8") for state in (once, thrice)]
    np.testing.assert_allclose(3 * ups[0], ups[1], rtol=1e-12, atol=1e-12)


@given(ROWS, st.integers(0, 60))
def test_cutting_a_block_in_two_changes_the_bets_but_not_what_was_measured(rows, cut):
    whole = folded(betting.begin(), rows)
    parts = folded(folded(betting.begin(), rows[:cut]), rows[cut:])
    assert [(s.pi, s.control.n, s.challenger.n) for s in parts.strata] == [
        (s.pi, s.control.n, s.challenger.n) for s in whole.strata
    ]
    assert (parts.estimate() is None) == (whole.estimate() is None)
    assert parts.estimate() == pytest.approx(whole.estimate(), abs=1e-12)


@given(ROWS)
def test_evidence_survives_json_bit_for_bit(rows):
    state = folded(betting.begin(margin=0.1 / 3, min_effect=0.07), rows)
    assert msgspec.json.decode(msgspec.json.encode(state), type=Betting) == state


@given(ROWS)
def test_swapping_the_arms_and_the_coin_mirrors_the_evidence(rows):
    here = folded(betting.begin(), rows)
    there = folded(betting.begin(), [(not w, y, 1 - pi) for w, y, pi in rows])
    assert here.log_e_better() == pytest.approx(there.log_e_harm(), rel=1e-9, abs=1e-9)
    lower, upper = there.interval(0.5)
    assert here.interval(0.5) == pytest.approx((-upper, -lower), abs=1e-6)


@given(ROWS, st.integers(1, 5), st.integers(1, 12))
def test_everything_stays_finite(rows, blocks, times):
    state = betting.begin(margin=0.02, min_effect=0.3)
    for _ in range(blocks):
        state = folded(state, rows * times)
    numbers = [state.log_e_better(), state.log_e_harm(), state.log_e_futile(), *state.interval(0.05)]
    assert all(math.isfinite(number) for number in numbers)


@pytest.mark.parametrize("y", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("pi", [1e-9, 0.5, 1 - 1e-9])
@pytest.mark.parametrize("w", [0, 1])
def test_an_empty_arm_a_constant_score_and_an_extreme_coin_are_no_trouble(w, pi, y):
    state = betting.begin(margin=0.05, min_effect=0.1)
    for _ in range(5):
        state = state.fold(np.full(200, w), np.full(200, y), np.full(200, pi))
    assert state.estimate() is None
    assert np.isfinite([state.log_e_better(), state.log_e_harm(), state.log_e_futile(), *state.interval(0.01)]).all()


@given(st.floats(0.02, 0.98), st.floats(0.01, 0.25), st.floats(0.001, 0.999), st.floats(-1, 1), st.floats(0.0001, 2))
def test_no_bet_loses_more_than_nine_tenths_and_none_has_an_edge_at_its_null(centre, scale, pi, null, bet):
    w, y = np.array([0.0, 0, 1, 1]), np.array([0.0, 1, 0, 1])
    growth = [
        log_growth(Cells(pi=pi, w=w[[i]], y=y[[i]], count=np.ones(1)), centre, scale, np.array([null]), np.array([bet]))
        for i in range(4)
    ]
    factors = np.exp(np.ravel(growth))
    assert factors.min() >= 0.1 - 1e-9
    for control in (0.0, 0.3, 1.0):
        challenger = control + null
        if 0 <= challenger <= 1:
            law = [(1 - pi) * (1 - control), (1 - pi) * control, pi * (1 - challenger), pi * challenger]
            assert law @ factors <= 1 + 1e-9


@given(ROWS, ROWS)
def test_evidence_falls_as_the_null_rises_among_nulls_under_the_same_bets(first, second):
    state = folded(folded(betting.begin(), first), second)
    capital = np.frombuffer(state.up, "<f8").reshape(-1, BETS)
    evidence = logsumexp(capital + np.log(prior(AIM)[1]), axis=1)
    near = state.nulls <= betting.REACH
    assert (np.diff(evidence[near]) <= 1e-9).all()
    assert (np.diff(evidence[~near]) <= 1e-9).all()


def test_the_interval_inverts_the_evidence_that_decides():
    state = sampled(1, control=0.6, challenger=0.7)
    lower, upper = state.interval(0.05)
    for effect in (lower, upper):
        assert -1 < effect < 1
    at_lower = sampled_at(lower, up=True)
    at_upper = sampled_at(upper, up=False)
    # Conservative: the end itself is refuted at 2/alpha, hardly more than needed.
    assert math.log(40) <= at_lower <= math.log(40) + 0.05
    assert math.log(40) <= at_upper <= math.log(40) + 0.05


def sampled_at(effect: float, *, up: bool) -> float:
    """Evidence of the sample above at exactly this null, by the same bets."""
    rng, state = np.random.default_rng(1), betting.begin(min_effect=0.05)
    effects, weights = prior(state.aim)
    capital = np.zeros((1, BETS))
    for _ in range(40):
        w = rng.random(100) < 0.5
        y = rng.random(100) < np.where(w, 0.7, 0.6)
        (cells,) = group(w, y, np.full(100, 0.5))
        centre, scale = forecast(state.strata, 0.5)
        if up:
            capital += log_growth(cells, centre, scale, np.array([effect]), effects)
        else:
            mirrored = Cells(pi=0.5, w=cells.w, y=1 - cells.y, count=cells.count)
            capital += log_growth(mirrored, 1 - centre, scale, np.array([-effect]), effects)
        state = state.fold(w, y, np.full(100, 0.5))
    return float(logsumexp(capital + np.log(weights)))


@pytest.mark.parametrize("aim", [0.001, 0.01, 0.03, 0.2, 1.0])
def test_bets_lie_around_the_effect_that_matters_and_leave_room_for_large_ones(aim):
    effects, weights = prior(aim)
    assert weights.sum() == pytest.approx(1)
    assert effects[0] < aim / 2
    assert effects[-1] > max(0.27, 5 * aim)
    assert weights[(effects > aim / 2) & (effects < max(0.3, 10 * aim))].sum() > 0.8


def test_a_guardrail_bets_on_its_margin_and_a_goal_on_its_least_effect():
    assert betting.begin(margin=0.01, min_effect=0.05).aim == 0.01
    assert betting.begin(min_effect=0.05).aim == 0.05
    assert betting.begin().aim == AIM


def test_an_interval_leaves_zero_out_when_and_only_when_a_side_is_decided_at_half_the_level():
    for seed, challenger in enumerate((0.6, 0.62, 0.65, 0.7, 0.55, 0.5)):
        state = sampled(seed, control=0.6, challenger=challenger, blocks=15)
        lower, upper = state.interval(0.05)
        assert (lower >= 0) == (state.log_e_better() >= math.log(40))
        assert (upper <= 0) == (state.log_e_harm() >= math.log(40))


def test_effects_moving_both_ways_give_an_interval_that_is_still_ordered():
    state = betting.begin()
    for control, challenger in ((0.2, 0.9), (0.9, 0.2)):
        for _ in range(30):
            w = np.arange(400) < 200
            y = np.arange(400) % 200 < 200 * np.where(w, challenger, control)
            state = state.fold(w, y, np.full(400, 0.5))
    lower, upper = state.interval(0.05)
    assert -1 <= lower <= upper <= 1


def test_the_estimate_is_the_difference_of_means_under_a_constant_split():
    rng = np.random.default_rng(3)
    w, y = rng.random(500) < 0.3, rng.random(500)
    state = betting.begin()
    for part in range(5):
        here = slice(part * 100, (part + 1) * 100)
        state = state.fold(w[here], y[here], np.full(100, 0.3))
    assert state.estimate() == pytest.approx(y[w].mean() - y[~w].mean(), abs=1e-12)
    control, challenger = state.means()
    assert (control.n, challenger.n) == ((~w).sum(), w.sum())
    assert challenger.mean == pytest.approx(y[w].mean())


def test_a_trend_during_a_ramp_is_not_taken_for_an_effect():
    # Simpson: both arms score .2 while the challenger has a tenth of the units, and .8 while it has half.
    state = betting.begin()
    for pi, score in ((0.1, 0.2), (0.5, 0.8)):
        w = np.arange(1000) < 1000 * pi
        y = np.where(w, np.arange(1000) < 1000 * pi * score, np.arange(1000) - 1000 * pi < 1000 * (1 - pi) * score)
        state = state.fold(w, y, np.full(1000, pi))
    control, challenger = state.means()
    assert challenger.mean - control.mean > 0.2
    assert state.estimate() == pytest.approx(0, abs=0.01)


def test_the_debiased_estimate_takes_back_the_winners_curse():
    # statistics.md section 2.1: stopped raw .0729, capital-weighted .0583 for a true .05.
    raw, debiased = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        state = betting.begin()
        while state.log_e_better() < math.log(40):
            w = rng.random(50) < 0.5
            state = state.fold(w, rng.random(50) < np.where(w, 0.75, 0.70), np.full(50, 0.5))
        raw.append(state.estimate())
        debiased.append(state.estimate_debiased())
    assert np.mean(raw) > 0.06
    assert abs(np.mean(debiased) - 0.05) < abs(np.mean(raw) - 0.05) * 0.75


def test_a_true_effect_is_found_and_a_false_hope_given_up():
    assert sampled(5, control=0.7, challenger=0.8).log_e_better() > math.log(1000)
    assert sampled(5, control=0.8, challenger=0.7).log_e_harm() > math.log(1000)
    assert sampled(5, control=0.7, challenger=0.7, blocks=80).log_e_futile() > math.log(10)


def test_two_arms_without_a_failure_pass_an_error_guardrail():
    state = betting.begin(margin=0.01)
    for _ in range(20):
        state = state.fold(np.arange(100) % 2, np.ones(100), np.full(100, 0.5))
    assert state.log_e_better() > math.log(20)


def test_the_forecast_is_the_expected_score_and_its_spread():
    state = betting.begin().fold(np.arange(4000) < 1000, np.arange(4000) % 10 < 7, np.full(4000, 0.25))
    centre, scale = forecast(state.strata, 0.25)
    assert centre == pytest.approx(0.7, abs=1e-3)
    assert scale == pytest.approx(0.21, abs=1e-3)
    assert forecast((), 0.25) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("w", "y", "pi"),
    [
        (0, 1.5, 0.5),
        (0, -0.1, 0.5),
        (0, math.nan, 0.5),
        (2, 0.5, 0.5),
        (0.5, 0.5, 0.5),
        (1, 0.5, 1.5),
        (1, 0.5, math.nan),
    ],
)
def test_rows_outside_their_range_are_refused(w, y, pi):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        betting.begin().fold([w], [y], [pi])


@pytest.mark.parametrize(("margin", "min_effect"), [(-0.1, None), (1.1, None), (0.0, 0.0), (0.0, 1.5)])
def test_margins_off_the_score_scale_are_refused(margin, min_effect):
    with pytest.raises(ValueError, match="scale"):
        betting.begin(margin=margin, min_effect=min_effect)
