"""The detector: its promise, what it finds, what it must not learn, and that a replay equals what was live."""

import itertools
import math
from dataclasses import dataclass

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings

from monitoring import design, drift
from monitoring.arms import Arm, Mark, Stream, known_by
from monitoring.design import Design, stakes
from monitoring.drift import Detector
from tests.monitoring.streams import at_most, binary, delay, scores, shifting

SHIPPED = design.of("default", run_length=1e5)
SENSITIVE = design.of("sensitive", run_length=1e5)
KNOWN = Design(run_length=1e4, known=0.85)


def after(outcomes, how: Design = SHIPPED, prior: tuple[int, float] | None = None) -> Detector:
    return drift.begin(how, {"base": prior} if prior else {}).fold(how, outcomes)


@pytest.mark.parametrize("block", [1, 5])
@pytest.mark.parametrize("law", ["0/1", "beta"])
def test_a_false_alarm_within_n_outcomes_is_as_rare_as_promised(block, law):
    rng, runs, how = np.random.default_rng(7), 400, Design(run_length=1e4, known=0.8, block=block)
    alarms = []
    for _ in range(runs):
        values = rng.random(1000) < 0.8 if law == "0/1" else rng.beta(12, 3, 1000)
        alarms.append(after(scores(values), how).alarm)
    for n in (100, 300, 1000):
        early = sum(alarm is not None and alarm.at < n for alarm in alarms)
        assert early <= at_most(n / how.run_length, runs)


def test_the_promise_holds_with_a_baseline_that_is_being_learned():
    runs, how = 60, design.of("default", run_length=2e4)
    alarms = 0
    for seed in range(runs):
        stream = shifting(seed, (5000, 0.85))
        alarms += after(stream, how, (1000, np.random.default_rng(1000 + seed).binomial(1000, 0.85))).alarm is not None
    assert alarms <= at_most(5000 / 2e4, runs)


def test_the_best_of_five_equal_arms_is_not_alarmed_about_for_falling_back_to_what_it_is():
    runs, alarms = 60, 0
    for seed in range(runs):
        luckiest = max(np.random.default_rng(seed).binomial(500, 0.85, 5))
        alarms += after(shifting(5000 + seed, (5000, 0.85)), SHIPPED, (500, luckiest)).alarm is not None
    assert alarms <= at_most(0.12, runs)


def test_bursts_within_a_block_raise_few_alarms():
    runs, alarms = 20, 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        fresh, changes = rng.random(20_000) < 0.85, rng.random(20_000) >= 0.3
        held = np.maximum.accumulate(np.where(changes, np.arange(20_000), 0))
        alarms += after(scores(fresh[held]), SHIPPED, (1000, 850)).alarm is not None
    assert alarms <= at_most(0.2, runs)


def test_for_right_or_wrong_answers_a_bet_is_a_likelihood_ratio():
    m, fallen = 0.85, 0.7
    stake = (m - fallen) / (m * (1 - m))
    ratios = [1 + stake * (m - y) for y in (0.0, 1.0)]
    assert ratios == pytest.approx([(1 - fallen) / (1 - m), fallen / m], rel=1e-12)


def test_stakes_range_from_the_least_fall_to_the_boldest_bet_and_never_ruin():
    for m, least in itertools.product((0.02, 0.05, 0.5, 0.85, 0.98), (0.003, 0.03)):
        bets = stakes(m, least, 12)
        assert list(bets) == sorted(bets)
        assert min(1 + bet * (m - 1) for bet in bets) == pytest.approx(0.1)
        assert max(1 + bet * m for bet in bets) > 1
    assert stakes(0.85, 0.03, 12)[0] == pytest.approx(0.03 / (0.85 * 0.15))


@pytest.mark.parametrize(("drop", "within"), [(0.2, 250), (0.1, 900)])
def test_a_fall_is_found_soon_after_a_promotion(drop, within):
    delays = [
        delay(after(shifting(seed, (300, 0.85), (10_000, 0.85 - drop)), SHIPPED, (300, 255)), 300) for seed in range(40)
    ]
    assert all(found is not None for found in delays)
    assert np.mean(delays) <= within


def test_long_uptime_does_not_make_it_slower():
    means = {}
    for calm in (5000, 50_000):
        delays = [delay(after(shifting(seed, (calm, 0.85), (3000, 0.75))), calm) for seed in range(12)]
        means[calm] = np.mean(delays)
    assert means[50_000] <= 1.3 * means[5000]


def test_a_slow_decay_is_found_before_much_is_lost():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        p = np.concatenate([np.full(2000, 0.85), np.linspace(0.85, 0.65, 40_000)])
        found = after(scores(rng.random(len(p)) < p)).alarm
        assert 0.85 - p[found.at] < 0.1


def test_the_change_point_is_near_the_change():
    errors = []
    for seed in range(40):
        found = after(shifting(seed, (3000, 0.85), (4000, 0.7))).alarm
        errors.append(abs(found.change_point - 3000))
    assert np.median(errors) <= 40


def test_an_improvement_raises_no_alarm_and_is_not_given_up_again():
    better = after(shifting(1, (2000, 0.8), (20_000, 0.95)))
    assert better.alarm is None
    assert better.arms["base"].baseline.null > 0.88
    assert better.fold(SHIPPED, binary(2, 6000, 0.8, start=22_000)).alarm is not None


def test_an_alarm_is_latched_and_nothing_moves_until_somebody_acts():
    alarmed = after(shifting(1, (2000, 0.85), (1000, 0.5)))
    later = alarmed.fold(SHIPPED, binary(2, 5000, 0.95, start=3000))
    assert alarmed.alarm is not None
    assert later.alarm == alarmed.alarm
    before, now = alarmed.arms["base"], later.arms["base"]
    assert (now.baseline, now.evidence, now.starts) == (before.baseline, before.evidence, before.starts)
    assert now.outcomes == before.outcomes + 5000
    assert later.evidence_ratio(SHIPPED) >= 1


def test_the_ratio_is_one_when_the_alarm_is_raised_and_below_before():
    ratios = [0.0]
    detector = drift.begin(SHIPPED, {"base": (2000, 1700)})
    for outcome in binary(1, 2000, 0.6):
        detector = detector.fold(SHIPPED, [outcome])
        ratios.append(detector.evidence_ratio(SHIPPED))
        if detector.alarm:
            break
    assert detector.alarm is not None
    assert ratios[-1] >= 1 > max(ratios[:-1])


def test_acknowledged_means_held_to_what_came_after_the_change_with_the_old_null_on_record():
    stream = shifting(1, (3000, 0.9), (2000, 0.6))
    alarmed = after(stream)
    detector = alarmed.acknowledged(SHIPPED)
    arm = detector.arms["base"]
    since = [y for _, at, y in stream[: 5000 - arm.count] if at >= alarmed.alarm.change_point]
    assert (arm.baseline.n, arm.baseline.s) == (len(since), sum(since))
    assert arm.floor == alarmed.arms["base"].baseline.null
    assert arm.baseline.null < 0.62 < arm.floor
    assert detector.alarm is None
    assert detector.level() == 0
    assert detector.fold(SHIPPED, binary(3, 5000, 0.6, start=5000)).alarm is None
    assert detector.fold(SHIPPED, binary(3, 5000, 0.4, start=5000)).alarm is not None


def test_the_old_null_stays_on_record_through_a_second_fall():
    first = after(shifting(1, (3000, 0.9), (2000, 0.6))).acknowledged(SHIPPED)
    second = first.fold(SHIPPED, binary(2, 2000, 0.3, start=5000))
    assert second.alarm is not None
    assert second.acknowledged(SHIPPED).arms["base"].floor == first.arms["base"].floor


def test_to_acknowledge_nothing_changes_nothing():
    calm = after(binary(1, 1000, 0.9))
    assert calm.acknowledged(SHIPPED) is calm


def test_an_empty_stream_says_nothing():
    assert after([]) == Detector()
    assert Detector().level() == 0
    assert Detector().evidence_ratio(SHIPPED) == 0
    assert Arm().score is None


@pytest.mark.parametrize("how", [SHIPPED, SENSITIVE], ids=["default", "sensitive"])
def test_all_right_is_no_alarm_and_then_all_wrong_is_one_at_once(how):
    right = after(scores([1.0] * 5000), how)
    assert right.alarm is None
    assert right.arms["base"].baseline.null == 0.98
    assert delay(right.fold(how, [("base", 5000 + i, 0.0) for i in range(50)]), 5000) <= 20


@pytest.mark.parametrize("how", [SHIPPED, SENSITIVE], ids=["default", "sensitive"])
def test_what_was_always_wrong_has_nothing_to_lose(how):
    wrong = after(scores([0.0] * 300_000), how)
    assert wrong.alarm is None
    assert wrong.arms["base"].baseline.null is None
    assert wrong.level() == 0


def test_ten_million_outcomes_stay_finite_and_the_next_fall_is_found():
    how = Design(run_length=1e6, block=100)
    outcomes = [("base", 0, 1.0)] * 19 + [("base", 0, 0.0)]
    detector = drift.begin(how, {}).fold(how, itertools.chain.from_iterable(itertools.repeat(outcomes, 500_000)))
    assert detector.alarm is None
    assert detector.arms["base"].outcomes == 10**7
    assert all(0 < level < math.inf for level in detector.arms["base"].evidence)
    assert delay(detector.fold(how, shifting(1, (2000, 0.7))), 0) <= 1000


def test_what_was_latched_long_ago_stays_finite():
    alarmed = after(shifting(1, (1000, 0.9), (1000, 0.3)))
    later = alarmed.fold(SHIPPED, itertools.repeat(("base", 0, 0.0), 10**6))
    assert later.arms["base"].evidence == alarmed.arms["base"].evidence
    assert later.acknowledged(SHIPPED).arms["base"].baseline.n > 10**6


def test_the_recent_score_is_about_the_last_five_hundred():
    detector = after(scores([1.0] * 3000 + [0.0] * 250))
    assert detector.arms["base"].score == pytest.approx(0.5, abs=0.05)
    assert after(scores([1.0, 0.0] * 20)).arms["base"].score == 0.5


@dataclass
class Case:
    how: Design
    outcomes: list[drift.Outcome]
    cuts: list[int]


@st.composite
def cases(draw) -> Case:
    n = draw(st.integers(0, 1500))
    seed, names = draw(st.integers(0, 10**6)), draw(st.integers(1, 3))
    rng = np.random.default_rng(seed)
    p = np.where(np.arange(n) < n * draw(st.floats(0, 1)), 0.9, draw(st.floats(0, 1)))
    values = (rng.random(n) < p) if draw(st.booleans()) else rng.beta(20 * p + 0.1, 20 * (1 - p) + 0.1)
    stream = [
        (f"arm{arm}", i, float(y)) for i, (arm, y) in enumerate(zip(rng.integers(0, names, n), values, strict=True))
    ]
    cuts = draw(st.lists(st.integers(0, n), max_size=20))
    how = design.of(draw(st.sampled_from(["default", "sensitive"])), run_length=1e4, min_outcomes=50)
    return Case(how, stream, sorted(cuts))


@given(cases())
@settings(max_examples=60, deadline=None)
def test_a_replay_equals_what_was_live_bit_for_bit(case):
    whole = drift.begin(case.how, {"arm0": (100, 90.0)}).fold(case.how, case.outcomes)
    live = drift.begin(case.how, {"arm0": (100, 90.0)})
    for first, end in itertools.pairwise([0, *case.cuts, len(case.outcomes)]):
        live = live.fold(case.how, case.outcomes[first:end])
        live = msgspec.json.decode(msgspec.json.encode(live), type=Detector)
    assert msgspec.json.encode(live) == msgspec.json.encode(whole)


def test_the_state_is_small():
    rng = np.random.default_rng(1)
    stream = [("base", 1_760_000_000_000_000 + 10**6 * i, float(y)) for i, y in enumerate(rng.beta(8, 2, 20_000))]
    assert len(msgspec.json.encode(after(stream))) <= 2048


def test_what_cannot_be_a_design_or_a_baseline_is_refused():
    for wrong in (
        {"run_length": 5.0},
        {"run_length": math.inf},
        {"block": 0},
        {"least": 0.0},
        {"bets": 1},
        {"known": 0.99},
    ):
        with pytest.raises(ValueError, match=r"known|run_length|least|bets"):
            Design(**{"run_length": 1e4} | wrong)
    with pytest.raises(ValueError, match="cannot have the sum"):
        drift.begin(SHIPPED, {"base": (10, 11.0)})


def test_a_bet_that_never_ran_suspects_nothing():
    arm = known_by(SHIPPED, 1000, 850)
    stream = Stream(arm, SHIPPED)
    assert stream.frozen() == arm
    calm = after(scores([1.0] * 50), SHIPPED, (1000, 850)).arms["base"]
    assert calm.suspect is None
    fallen = after(scores([0.0] * 10), SHIPPED, (1000, 850)).arms["base"]
    assert fallen.suspect == Mark(0, 1000, 850.0)
