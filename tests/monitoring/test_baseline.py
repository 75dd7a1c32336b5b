"""What an arm is held to."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from monitoring import design, drift
from monitoring.baseline import Baseline, wilson_lower
from monitoring.design import Design
from monitoring.drift import Detector
from tests.monitoring.streams import binary, scores

SHIPPED = design.of("default", run_length=1e5)
SENSITIVE = design.of("sensitive", run_length=1e5)
KNOWN = Design(run_length=1e4, known=0.85)


def after(outcomes, how: Design = SHIPPED, prior: tuple[int, float] | None = None) -> Detector:
    return drift.begin(how, {"base": prior} if prior else {}).fold(how, outcomes)


@given(st.lists(st.tuples(st.integers(1, 400), st.floats(0, 1)), min_size=1, max_size=30))
@settings(max_examples=60)
def test_the_null_never_falls(parts):
    how = design.of("default", run_length=1e9, min_outcomes=50)
    detector, highest = drift.begin(how, {}), -math.inf
    for seed, (n, p) in enumerate(parts):
        detector = detector.fold(how, binary(seed, n, p))
        null = detector.arms["base"].baseline.null
        if null is not None:
            assert null >= highest
            highest = null
    assert highest <= 0.98


def test_the_null_is_below_the_mean_by_what_is_tolerated_and_by_what_is_uncertain():
    young, old = Baseline(300, 255).reviewed(SHIPPED), Baseline(10**6, 850_000).reviewed(SHIPPED)
    assert young.null == pytest.approx(wilson_lower(0.85, 300, 2.5))
    assert young.null < old.null == pytest.approx(0.83)


def test_wilsons_lower_end_solves_its_equation():
    for p, n, z in [(0.85, 300, 2.5), (0.5, 10, 2.0), (1.0, 50, 2.5)]:
        low = wilson_lower(p, n, z)
        assert (p - low) / math.sqrt(low * (1 - low) / n) == pytest.approx(z)
    assert wilson_lower(0.0, 50, 2.5) == pytest.approx(0.0, abs=1e-12)


def test_bursts_widen_the_baselines_margin_and_independent_outcomes_do_not():
    rng = np.random.default_rng(3)
    calm = after(scores(rng.random(5000) < 0.85)).arms["base"].baseline
    bursty = after(scores(np.repeat(rng.random(1000) < 0.85, 5))).arms["base"].baseline
    assert calm.design_effect(5) == pytest.approx(1.0, abs=0.1)
    assert bursty.design_effect(5) == pytest.approx(5.0, abs=0.5)
    assert bursty.null < calm.null


def test_nothing_is_bet_before_there_is_a_baseline():
    warming = after(binary(1, 299, 0.9))
    assert warming.arms["base"].evidence == ()
    assert warming.evidence_ratio(SHIPPED) == 0.0
    assert warming.fold(SHIPPED, binary(2, 10, 0.9)).arms["base"].baseline.null is not None


def test_a_prior_is_no_evidence_but_ends_the_warming():
    detector = drift.begin(SHIPPED, {"base": (300, 255.0)})
    assert detector.arms["base"].outcomes == 300
    assert detector.fold(SHIPPED, binary(1, 5, 0.0)).level() > 0


def test_a_known_null_never_moves():
    detector = after(binary(1, 5000, 0.95), KNOWN)
    assert detector.arms["base"].null(KNOWN) == 0.85
