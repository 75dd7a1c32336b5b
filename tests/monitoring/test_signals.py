"""A program's signals: what is watched, in which order, and what promotions and acknowledgements do to it."""

import itertools
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.quantities import duration
from monitoring import signals
from monitoring.ranks import REFERENCE
from monitoring.signals import (
    BUILDING,
    MOST_ARMS,
    Matured,
    Policy,
    ProgramDrift,
    Reading,
    acknowledged,
    advance,
    alarms,
    begin,
    designs,
    promoted,
    readings,
    withdrawn,
)
from tests.monitoring.streams import at_most

POLICY = Policy(outcomes_per_day=100)
QUICK = Policy(min_outcomes=50, profile="sensitive")


def cohort(
    seed: int,
    n: int,
    *,
    start: int = 0,
    p: float = 0.85,
    labelled: float = 0.5,
    errors: float = 0.01,
    slower: float = 1.0,
    variant: str | list[str] = "base",
) -> list[Matured]:
    """Predictions of one or of several variants, one per second."""
    rng = np.random.default_rng(seed)
    names = [variant] if isinstance(variant, str) else variant
    columns = zip(
        rng.integers(len(names), size=n).tolist(),
        (rng.random(n) < errors).tolist(),
        (rng.random(n) < labelled).tolist(),
        (rng.random(n) < p).tolist(),
        np.rint(8e5 * slower * rng.lognormal(0, 0.5, n)).astype(int).tolist(),
        np.rint(2e9 * rng.lognormal(0, 0.3, n)).astype(int).tolist(),
        (rng.random(n) < 0.9).tolist(),
        strict=True,
    )
    return [
        Matured(
            prediction_id=f"p{i:09}",
            at=i * 10**6,
            variant=names[name],
            error=error,
            labelled=has,
            score=float(right) if has else None,
            latency=latency,
            cost=cost if priced else None,
        )
        for i, (name, error, has, right, latency, cost, priced) in enumerate(columns, start)
    ]


def of(state: ProgramDrift, signal: str, variant: str = "base", policy: Policy = POLICY) -> Reading:
    return next(each for each in readings(state, policy) if (each.signal, each.variant) == (signal, variant))


def calm(n: int = 4000, **how: Any) -> ProgramDrift:
    return advance(begin("base", (1000, 850), POLICY), POLICY, cohort(1, n, **how))


def test_a_calm_program_is_warming_and_then_well_in_every_signal():
    young = advance(begin("base", None, POLICY), POLICY, cohort(1, 200))
    assert {each.status for each in readings(young, POLICY)} == {"warming"}
    old = calm()
    assert {each.status for each in readings(old, POLICY)} <= {"ok", "building"}
    assert [each.signal for each in readings(old, POLICY)] == list(get_args(signals.Signal))
    assert alarms(old) == {}
    score = of(old, "score")
    assert score.null_score < score.baseline - 0.02
    assert score.baseline == pytest.approx(0.85, abs=0.02)
    assert score.score == pytest.approx(0.85, abs=0.06)
    assert score.outcomes == 1000 + sum(each.labelled for each in cohort(1, 4000))


@pytest.mark.parametrize(
    ("changed", "signal"),
    [
        ({"p": 0.6}, "score"),
        ({"labelled": 0.3}, "label_share"),
        ({"labelled": 0.7}, "label_share"),
        ({"errors": 0.15}, "errors"),
        ({"slower": 1.6}, "latency"),
    ],
    ids=str,
)
def test_what_becomes_worse_alarms_in_its_own_signal_and_tells_since_when(changed, signal):
    state = advance(calm(), POLICY, cohort(2, 3000, start=4000, **changed))
    assert signal in alarms(state)
    assert set(alarms(state)) <= {signal, f"{signal}_tail"}
    reading = of(state, signal)
    assert reading.status == "alarm"
    assert reading.evidence_ratio >= 1
    assert abs(reading.change_point - 4000 * 10**6) <= 300 * 10**6
    assert reading.change_point <= reading.alarm_at <= state.cursor[0]


def test_dearer_answers_alarm_and_unpriced_ones_are_left_out():
    dearer = [msgspec.structs.replace(m, cost=m.cost and 2 * m.cost) for m in cohort(2, 2000, start=4000)]
    assert set(alarms(advance(calm(), POLICY, dearer))) == {"cost", "cost_tail"}
    unpriced = [msgspec.structs.replace(m, cost=None) for m in cohort(2, 4000, start=4000)]
    assert of(advance(calm(), POLICY, unpriced), "cost") == of(calm(), "cost")


def test_an_alarm_builds_before_it_is_raised():
    state, seen = calm(), []
    for each in cohort(2, 3000, start=4000, p=0.7):
        state = advance(state, POLICY, [each])
        reading = of(state, "score")
        seen.append(reading.status)
        assert (reading.status == "building") == (BUILDING < reading.evidence_ratio < 1)
        if reading.status == "alarm":
            break
    assert [status for status, _ in itertools.groupby(seen)][-2:] == ["building", "alarm"]


def test_labels_that_come_later_for_wrong_answers_are_no_drift_in_the_order_of_predictions():
    """Right labels take 2,000 s and wrong ones 200 s: in the order of arrival they look bad for a long time."""
    maturity, runs, by_arrival, matured = 6000 * 10**6, 12, 0, 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        made = cohort(seed, 12_000, labelled=1.0)
        arrives = [m.at + 10**6 * rng.exponential(2000 if m.score else 200) for m in made]
        policy = Policy()
        ordered = [m for _, m in sorted(zip(arrives, made, strict=True), key=lambda pair: pair[0])]
        as_they_come = [
            msgspec.structs.replace(m, at=i, prediction_id=f"p{i:09}") for i, m in enumerate(ordered[:6000])
        ]
        by_arrival += "score" in alarms(advance(begin("base", (1000, 850), policy), policy, as_they_come))
        in_time = [
            m if at <= m.at + maturity else msgspec.structs.replace(m, labelled=False, score=None)
            for m, at in zip(made, arrives, strict=True)
        ]
        matured += "score" in alarms(advance(begin("base", (1000, 850), policy), policy, in_time[:6000]))
    assert by_arrival >= 0.8 * runs
    assert matured <= at_most(0.1, runs)


def test_a_retried_cohort_changes_nothing():
    stream = cohort(1, 700)
    state = advance(begin("base", None, POLICY), POLICY, stream[:500])
    assert advance(state, POLICY, stream[:500]) is state
    assert advance(state, POLICY, stream[100:300]) is state
    assert advance(state, POLICY, []) is state
    assert advance(state, POLICY, stream[400:]) == advance(begin("base", None, POLICY), POLICY, stream)


def test_predictions_of_one_moment_are_told_apart_by_their_ids():
    one, other = (msgspec.structs.replace(m, at=5) for m in cohort(1, 2))
    state = advance(begin("base", None, POLICY), POLICY, [one])
    assert advance(advance(state, POLICY, [one, other]), POLICY, [other]) == advance(state, POLICY, [other])
    assert advance(state, POLICY, [other]).cursor == other.place


@given(
    st.integers(0, 10**6),
    st.integers(0, 400),
    st.lists(st.integers(0, 600), max_size=6),
    st.integers(1, MOST_ARMS + 3),
)
@settings(max_examples=20, deadline=None)
def test_any_way_of_cutting_the_stream_into_calls_stores_the_same_bytes(seed, n, cuts, arms):
    variants = ["base", *(f"new{i}" for i in range(1, arms))]
    stream = cohort(seed, n, variant=variants) + cohort(seed + 1, 200, start=n, p=0.4, variant=variants)
    live = begin("base", (100, 90), QUICK)
    for first, end in itertools.pairwise([0, *sorted(cuts), len(stream)]):
        live = advance(live, QUICK, stream[first:end])
        live = msgspec.json.decode(msgspec.json.encode(live), type=ProgramDrift)
    assert msgspec.json.encode(live) == msgspec.json.encode(advance(begin("base", (100, 90), QUICK), QUICK, stream))


def test_a_full_reference_is_cut_into_calls_as_well_as_any():
    stream = cohort(1, REFERENCE + 300)
    whole = advance(begin("base", None, POLICY), POLICY, stream)
    live = begin("base", None, POLICY)
    for first in range(0, len(stream), 230):
        live = advance(live, POLICY, stream[first : first + 230])
    assert msgspec.json.encode(live) == msgspec.json.encode(whole)
    assert of(live, "latency").outcomes == 300


def test_every_arm_is_watched_and_the_alarm_names_the_one_that_fell():
    both = ["base", "new"]
    state = advance(begin("base", (3000, 2550), POLICY), POLICY, cohort(1, 4000, variant=both, labelled=1.0))
    assert {each.variant for each in readings(state, POLICY)} == {"base", "new"}
    later = [
        msgspec.structs.replace(m, score=0.0) if m.variant == "new" and m.at % (3 * 10**6) else m
        for m in cohort(3, 2000, start=4000, variant=both, labelled=1.0)
    ]
    fallen = advance(state, POLICY, later)
    assert alarms(fallen)["score"].arm == "new"
    assert of(fallen, "score", "new").status == "alarm" != of(fallen, "score").status
    assert alarms(withdrawn(fallen, "new")) == {}
    assert {each.variant for each in readings(withdrawn(fallen, "new"), POLICY)} == {"base"}


def test_beyond_eight_arms_the_one_silent_longest_is_forgotten_and_never_the_champion():
    state = begin("base", None, POLICY)
    for number in range(MOST_ARMS + 2):
        state = advance(state, POLICY, cohort(number, 10, start=10 * number, variant=f"v{number}"))
    assert list(state.seen) == ["base", *(f"v{number}" for number in range(3, MOST_ARMS + 2))]
    assert set(state.watches["errors"].falls.arms) == set(state.seen) - {"base"}
    assert set(state.references["latency"]) == set(state.seen) - {"base"}


def test_a_promotion_begins_anew_from_what_the_experiment_has_shown():
    state = calm(4000, variant=["base", "new"])
    fallen = advance(state, POLICY, cohort(2, 2000, start=4000, p=0.3, variant=["base", "new"]))
    assert "score" in alarms(fallen)
    after = promoted(fallen, "new", (800, 720), POLICY)
    assert alarms(after) == {}
    assert (after.champion, after.cursor) == ("new", fallen.cursor)
    assert {each.variant for each in readings(after, POLICY)} == {"new"}
    score = of(after, "score", "new")
    assert (score.outcomes, score.baseline, score.evidence_ratio) == (800, 0.9, 0)
    assert of(after, "errors", "new").baseline == of(fallen, "errors", "new").baseline
    assert after.references["latency"]["new"] == fallen.references["latency"]["new"]


def test_a_champion_promoted_without_a_prior_is_held_to_what_was_seen_of_it():
    state = calm(4000, variant=["base", "new"])
    after = promoted(state, "new", None, POLICY)
    assert of(after, "score", "new").outcomes == of(state, "score", "new").outcomes
    assert of(promoted(state, "stranger", None, POLICY), "score", "stranger").status == "warming"


def test_to_acknowledge_one_signal_leaves_the_others_alarmed():
    state = advance(calm(), POLICY, cohort(2, 3000, start=4000, p=0.5, errors=0.2))
    assert {"score", "errors"} <= set(alarms(state))
    named = acknowledged(state, POLICY, ["score"])
    assert "errors" in alarms(named)
    assert "score" not in alarms(named)
    assert alarms(acknowledged(state, POLICY)) == {}
    score = of(named, "score")
    assert (score.status, score.evidence_ratio) == ("ok", 0)
    assert score.null_score < score.floor == of(state, "score").null_score


def test_the_promise_is_made_in_outcomes_of_the_days_that_were_asked_for():
    month = Policy(outcomes_per_day=1000, predictions_per_day=5000, false_alarm_every=duration("30d"))
    assert designs(month)["score"].run_length == 30_000
    assert designs(month)["errors"].run_length == 150_000
    assert designs(month)["label_share"].run_length == 300_000
    assert designs(Policy())["score"].run_length == 10_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"tolerated_drop": -0.1},
        {"tolerated_drop": 0.5},
        {"false_alarm_every": 0},
        {"outcomes_per_day": float("nan")},
        {"min_outcomes": 0},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Policy(**wrong)


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_a_score_beyond_its_range_is_refused(score):
    with pytest.raises(ValueError, match="between 0 and 1"):
        msgspec.structs.replace(cohort(1, 1)[0], score=score)


@pytest.mark.parametrize("tolerated", [0.0, 0.3, 0.499])
@pytest.mark.parametrize("profile", ["default", "sensitive"])
def test_every_policy_that_is_accepted_can_be_watched_by(tolerated, profile):
    policy = Policy(tolerated_drop=tolerated, profile=profile, outcomes_per_day=1e7, min_outcomes=1)
    state = advance(begin("base", (10, 10), policy), policy, cohort(1, REFERENCE + 200))
    assert all(0 <= each.evidence_ratio < 1 for each in readings(state, policy))
