"""Several arms under one promise."""

import numpy as np
import pytest

from monitoring import design, drift
from monitoring.design import Design, stakes
from monitoring.drift import Detector
from tests.monitoring.streams import at_most, binary, delay

SHIPPED = design.of("default", run_length=1e5)
SENSITIVE = design.of("sensitive", run_length=1e5)
KNOWN = Design(run_length=1e4, known=0.85)


def after(outcomes, how: Design = SHIPPED, prior: tuple[int, float] | None = None) -> Detector:
    return drift.begin(how, {"base": prior} if prior else {}).fold(how, outcomes)


def arms(seed: int, n: int, shares: dict[str, float], p: dict[str, float], start: int = 0):
    rng = np.random.default_rng(seed)
    names = rng.choice(list(shares), n, p=list(shares.values())).tolist()
    return [(name, start + i, float(rng.random() < p[name])) for i, name in enumerate(names)]


def test_moving_traffic_between_unequal_arms_is_no_drift():
    how, p, alarms = design.of("default", run_length=2e4), {"base": 0.9, "new": 0.7}, 0
    runs = 30
    for seed in range(runs):
        detector = drift.begin(how, {"base": (1000, 900), "new": (1000, 700)})
        detector = detector.fold(how, arms(seed, 2000, {"base": 0.9, "new": 0.1}, p))
        alarms += detector.fold(how, arms(seed + 1000, 3000, {"base": 0.5, "new": 0.5}, p)).alarm is not None
    assert alarms <= at_most(5000 / 2e4, runs)


@pytest.mark.parametrize(
    ("fallen", "within"), [({"base": 0.75, "new": 0.75}, 500), ({"base": 0.75}, 900), ({"new": 0.65}, 1600)]
)
def test_a_fall_of_all_arms_or_of_one_is_found_and_named(fallen, within):
    p, shares = {"base": 0.85, "new": 0.85}, {"base": 0.8, "new": 0.2}
    named = []
    for seed in range(15):
        detector = drift.begin(SHIPPED, dict.fromkeys(p, (3000, 2550)))
        detector = detector.fold(SHIPPED, arms(seed, 1000, shares, p))
        detector = detector.fold(SHIPPED, arms(seed + 100, 8000, shares, p | fallen, start=1000))
        assert delay(detector, 1000) <= 3 * within
        named.append(detector.alarm.arm)
    likely = None if len(fallen) == 2 else next(iter(fallen))
    assert named.count(likely) >= 8


def test_one_arm_alone_is_watched_as_if_arms_did_not_exist():
    alone = after(binary(1, 3000, 0.85), SHIPPED, (1000, 850))
    beside = drift.begin(SHIPPED, {"base": (1000, 850), "idle": (1000, 850)}).fold(SHIPPED, binary(1, 3000, 0.85))
    assert alone.aware is None is beside.aware
    assert alone.level() == beside.level()


def test_when_a_second_arm_comes_the_stream_over_all_goes_on_from_the_first():
    detector = after(binary(1, 1000, 0.9), KNOWN)
    both = detector.fold(KNOWN, binary(2, 5, 0.0, arm="new", start=1000))
    growth = [1 + bet * 0.85 for bet in stakes(0.85, 0.03, 12)]
    assert both.aware == tuple(
        (1 + level) * factor for level, factor in zip(detector.arms["base"].evidence, growth, strict=True)
    )
    assert both.arms["new"].evidence == tuple(growth)


def test_only_the_arm_that_has_fallen_is_held_to_less():
    p = {"base": 0.85, "new": 0.85}
    detector = drift.begin(SHIPPED, dict.fromkeys(p, (3000, 2550)))
    detector = detector.fold(SHIPPED, arms(1, 4000, {"base": 0.5, "new": 0.5}, p | {"new": 0.5}))
    assert detector.alarm.arm == "new"
    lowered = detector.acknowledged(SHIPPED)
    assert lowered.arms["base"].baseline.null == detector.arms["base"].baseline.null
    assert lowered.arms["base"].outcomes == detector.arms["base"].outcomes
    assert lowered.arms["new"].floor == detector.arms["new"].baseline.null


def test_with_an_arm_goes_the_alarm_that_was_about_it():
    p = {"base": 0.85, "new": 0.85}
    detector = drift.begin(SHIPPED, dict.fromkeys(p, (3000, 2550)))
    detector = detector.fold(SHIPPED, arms(1, 4000, {"base": 0.5, "new": 0.5}, p | {"new": 0.5}))
    assert detector.without("new").alarm is None
    assert detector.without("new").level() == 0
    assert detector.without("base").alarm == detector.alarm
