"""Latencies and costs as scores: by rank, so that no unit of measurement makes a difference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring import design, drift, ranks
from monitoring.ranks import REFERENCE, Reference
from tests.monitoring.streams import at_most

BASE = design.of("default", run_length=1e5)
RANKED, TAIL = ranks.rank_design(BASE, 0.02), ranks.tail_design(BASE)


def costs(seed: int, n: int, *, times: float = 1.0, retries: float = 0.01) -> list[int]:
    """Picodollars per request, lognormal around a fifth of a cent; a retried request costs twenty times as much."""
    rng = np.random.default_rng(seed)
    values = rng.lognormal(0, 0.8, n) * np.where(rng.random(n) < retries, 20, 1) * times
    return [round(value) for value in 2e9 * values]


def reference(values: list[int]) -> Reference:
    known, _ = ranks.absorb({}, [("base", i, value) for i, value in enumerate(values)])
    return known["base"]


def test_a_score_is_one_less_the_mid_rank():
    full = reference([10] * 500 + [20] * 1000 + [30] * 500)
    assert [full.score(value) for value in (5, 10, 20, 25, 30, 31)] == [1.0, 0.875, 0.5, 0.25, 0.125, 0.0]


def test_the_tail_begins_beyond_the_99_percent_quantile():
    full = reference(list(range(REFERENCE)))
    assert [full.within(value) for value in (0, 1979, 1980)] == [1.0, 1.0, 0.0]
    assert full.known_by(TAIL).baseline.mean == 0.99
    assert reference([7] * REFERENCE).known_by(TAIL).baseline.mean == 1.0


@given(st.integers(0, 1000), st.lists(st.integers(0, 2100), max_size=6))
def test_how_values_arrive_makes_no_difference_to_the_reference(seed, cuts):
    rng = np.random.default_rng(seed)
    values = [
        (arm, i, v)
        for i, (arm, v) in enumerate(zip(rng.choice(["a", "b"], 2100, p=[0.97, 0.03]), costs(seed, 2100), strict=True))
    ]
    whole, ranked = ranks.absorb({}, values)
    known, kept = {}, []
    for first, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(values)], strict=True):
        known, more = ranks.absorb(known, values[first:end])
        kept += more
    assert (known, kept) == (whole, ranked)
    assert len(ranked) == max(0, sum(arm == "a" for arm, *_ in values) - REFERENCE)


@given(st.integers(1, 10**6), st.integers(0, 100))
def test_dollars_or_cents_make_no_difference_at_all(factor, seed):
    values, later = costs(seed, REFERENCE), costs(seed + 1, 50)
    one, other = reference(values), reference([factor * value for value in values])
    assert [one.score(v) for v in later] == [other.score(factor * v) for v in later]
    assert [one.within(v) for v in later] == [other.within(factor * v) for v in later]


def watched(full: Reference, values: list[int]) -> tuple[drift.Detector, drift.Detector]:
    """The detectors of the ranks and of the tail."""
    level = drift.begin(RANKED, {}).fold(RANKED, [("base", i, full.score(v)) for i, v in enumerate(values)])
    known = {"base": full.known_by(TAIL)}
    return level, drift.begin(TAIL, {}).fold(TAIL, [("base", i, full.within(v)) for i, v in enumerate(values)], known)


def test_costs_that_stay_the_same_raise_few_alarms():
    runs, alarms = 25, 0
    for seed in range(runs):
        alarms += any(each.alarm for each in watched(reference(costs(seed, REFERENCE)), costs(seed + 500, 10_000)))
    assert alarms <= at_most(2 * 10_000 / 1e5, runs)


def test_half_as_dear_again_is_found_within_few_hundred():
    delays = []
    for seed in range(20):
        level, _ = watched(reference(costs(seed, REFERENCE)), costs(seed, 1000) + costs(seed + 99, 3000, times=1.5))
        assert level.alarm is not None
        delays.append(level.alarm.at - 999)
    assert np.mean(delays) <= 200


def test_a_heavier_tail_is_found_by_the_tail_alone():
    found = [
        watched(reference(costs(seed, REFERENCE)), costs(seed, 1000) + costs(seed + 99, 6000, retries=0.04))
        for seed in range(10)
    ]
    assert sum(tail.alarm is not None for _, tail in found) >= 9
    assert sum(level.alarm is not None for level, _ in found) <= 3


@pytest.mark.parametrize("constant", [0, 5])
def test_constant_values_are_no_drift(constant):
    assert not any(each.alarm for each in watched(reference([constant] * REFERENCE), [constant] * 5000))
