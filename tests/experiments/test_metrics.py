import re
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from experiments.metrics import IMPLICIT, LABELLED, Metric, scored_by_label, token_f1

WORDS = st.lists(st.sampled_from(["red", "green", "blue", "seven"]), max_size=6)


@given(st.floats(-1e6, 1e6), st.floats(1, 1e6), st.floats(0, 1), st.sampled_from(["higher", "lower"]))
def test_a_score_lies_between_nought_and_one_and_more_is_better(low, width, share, direction):
    metric = Metric(kind="score", range=(low, low + width), direction=direction)
    value = low + share * width
    expected = share if direction == "higher" else 1 - share
    assert metric.score(min(value, low + width)) == pytest.approx(expected, abs=1e-6)


@given(st.floats(-1, 1), st.sampled_from(["higher", "lower"]))
def test_an_effect_is_told_in_the_metrics_own_unit_and_direction(difference, direction):
    metric = Metric(kind="score", range=(1, 5), direction=direction)
    assert metric.effect(difference) == pytest.approx(4 * difference * (1 if direction == "higher" else -1))


def test_an_effect_of_scores_is_the_difference_of_values():
    metric = Metric(kind="score", range=(-10, 30), direction="lower")
    assert metric.effect(metric.score(12) - metric.score(4)) == pytest.approx(12 - 4)


@pytest.mark.parametrize("kind", sorted(IMPLICIT))
def test_lower_is_better_for_what_is_observed(kind):
    assert Metric(kind=kind).lower_is_better
    with pytest.raises(ValueError, match=f"lower is better for {kind}"):
        Metric(kind=kind, direction="higher")


@pytest.mark.parametrize("kind", ["positive", "latency", "cost", "tokens"])
def test_metrics_without_a_greatest_value_are_unbounded(kind):
    assert not Metric(kind=kind).bounded
    assert Metric(kind="boolean").bounded


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"kind": "exact_match"}, "needs `field`"),
        ({"kind": "boolean", "field": "category"}, "takes no `field`"),
        ({"kind": "score"}, "needs `range`"),
        ({"kind": "boolean", "range": (0, 1)}, "takes no `range`"),
        ({"kind": "score", "range": (5, 1)}, "must rise"),
        ({"kind": "score", "range": (1, 1)}, "must rise"),
        ({"kind": "score", "range": (0, float("inf"))}, "must rise"),
        ({"kind": "score", "range": (float("nan"), 1)}, "must rise"),
        ({"kind": "boolean", "role": "guardrail"}, "a guardrail needs `margin`"),
        ({"kind": "boolean", "margin": 0}, "margin must be above 0"),
        ({"kind": "latency", "margin": "-10%"}, "margin must be above 0"),
        ({"kind": "latency", "margin": "ten"}, "is not a number or a percentage"),
        ({"kind": "boolean", "sources": ()}, "at least one"),
        ({"kind": "boolean", "sources": ("human", "human")}, "at most once"),
    ],
)
def test_contradictory_definitions_are_refused_with_the_reason(terms, message):
    with pytest.raises(ValueError, match=message):
        Metric(**terms)


def test_the_error_guardrail_has_a_margin_of_one_point_by_itself():
    assert Metric(kind="error", role="guardrail").allowance == 0.01
    assert Metric(kind="latency", role="guardrail", margin="10%").allowance == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("terms", "value", "number"),
    [
        ({"kind": "boolean"}, True, 1.0),
        ({"kind": "boolean"}, 0, 0.0),
        ({"kind": "score", "range": (1, 5)}, 5, 5.0),
        ({"kind": "positive"}, 1e-9, 1e-9),
        ({"kind": "exact_match", "field": "category"}, 0.5, 0.5),
    ],
)
def test_reported_values_become_numbers(terms, value, number):
    assert Metric(**terms).check_value(value) == number


@pytest.mark.parametrize(
    ("terms", "value", "message"),
    [
        ({"kind": "boolean"}, 0.5, "is not true or false"),
        ({"kind": "score", "range": (1, 5)}, 5.5, "outside the range 1 to 5"),
        ({"kind": "score", "range": (1, 5)}, True, "is not a finite number"),
        ({"kind": "score", "range": (1, 5)}, float("nan"), "is not a finite number"),
        ({"kind": "positive"}, float("inf"), "is not a finite number"),
        ({"kind": "positive"}, 0, "is not above 0"),
        ({"kind": "token_f1", "field": "answer"}, 1.1, "outside the range 0 to 1"),
    ],
)
def test_values_a_metric_does_not_take_are_refused_with_what_it_takes(terms, value, message):
    with pytest.raises(ValueError, match=message):
        Metric(**terms).check_value(value)


def test_labels_are_compared_as_the_kind_says():
    exact, loose = (Metric(kind=kind, field="x") for kind in ("exact_match", "normalized_match"))
    assert (exact.compare("Bug", "Bug"), exact.compare("Bug", "bug")) == (1.0, 0.0)
    assert (loose.compare("The  bug!", "bug"), loose.compare("bug", "bugs")) == (1.0, 0.0)
    assert loose.compare("ﬁx it", "Fix it.") == 1.0, "a ligature is the letters it joins"
    assert Metric(kind="token_f1", field="x").compare("a red car", "red bike") == pytest.approx(0.5)


@given(WORDS, WORDS)
def test_token_f1_is_a_symmetric_likeness(one, another):
    likeness = token_f1(one, another)
    assert 0 <= likeness <= 1
    assert likeness == token_f1(another, one)
    assert (likeness == 1) == (sorted(one) == sorted(another))


def test_token_f1_agrees_with_the_measure_of_squad():
    # precision 2/3, recall 2/4: harmonic mean 4/7.
    assert token_f1(["in", "the", "year", "1066"], ["year", "1066", "perhaps"]) == pytest.approx(4 / 7)


def test_a_label_decides_the_metrics_on_its_fields():
    metrics = {
        "correct": Metric(kind="exact_match", field="category"),
        "wording": Metric(kind="token_f1", field="answer"),
        "liked": Metric(kind="boolean"),
    }
    assert scored_by_label(metrics, {"category": "bug"}) == ["correct"]
    assert scored_by_label(metrics, {"category": "bug", "answer": ""}) == ["correct", "wording"]
    assert scored_by_label(metrics, {"other": 1}) == []
    assert {metrics[name].kind for name in ("correct", "wording")} <= LABELLED


def test_a_limit_makes_latency_and_cost_a_share_of_predictions_beyond_it() -> None:
    slow = Metric(kind="latency", role="guardrail", limit="2s", margin=0.01)
    dear = Metric(kind="cost", role="guardrail", limit=0.01, margin="1%")
    assert (slow.bounded, slow.bounds, slow.lower_is_better, slow.threshold) == (True, (0.0, 1.0), True, 2_000_000)
    assert (dear.threshold, dear.allowance) == (10**10, 0.01)
    assert not Metric(kind="latency", role="guardrail", margin="10%").bounded


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({"kind": "boolean", "limit": 1}, "takes no `limit`"),
        ({"kind": "tokens", "limit": 900}, "takes no `limit`; latency and cost do"),
        ({"kind": "latency", "limit": "soon"}, "limit: 'soon' is not a duration"),
        ({"kind": "cost", "limit": "cheap"}, "limit: 'cheap' is not an amount"),
        ({"kind": "latency", "limit": 0}, "limit must be above 0"),
        ({"kind": "latency", "limit": "2s", "margin": 2}, "wider than the metric's whole range"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(written: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        Metric(**written)
