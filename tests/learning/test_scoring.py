"""What a fresh answer is worth against its label, and what is said of it."""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from experiments.metrics import LABELLED, Metric
from learning.compile_runs import Example
from learning.feedback.scoring import LONGEST_QUOTE, rescorable, score

EXACT = Metric(kind="exact_match", field="category", role="goal")
F1 = Metric(kind="token_f1", field="category", role="goal")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def example(category: Any, *remarks: str, **label: Any) -> Example:
    return Example(
        prediction_id="p",
        unit_hash="u",
        at=0,
        input={"ticket": "It crashed"},
        label={"category": category, **label},
        feedback=remarks,
    )


def said(goal: Metric, expected: Any, given: Any) -> str:
    return score(goal, example(expected), {"category": given})[1]


@given(JSON, JSON, st.sampled_from(sorted(LABELLED)), st.lists(st.text(max_size=20), max_size=3))
def test_any_answer_has_a_score_in_range_and_feedback_alike_every_time(expected, answered, kind, remarks):
    goal = Metric(kind=kind, field="category")
    points, feedback = score(goal, example(expected, *remarks), {"category": answered})
    assert 0 <= points <= 1
    assert points == goal.compare(expected, answered)
    assert feedback.startswith("Right" if points == 1 else "Partly right" if points else "Wrong")
    assert (points, feedback) == score(goal, example(expected, *remarks), {"category": answered})


def test_a_wrong_answer_is_told_what_was_expected_and_what_it_said():
    assert score(EXACT, example("bug"), {"category": "billing"}) == (
        0.0,
        "Wrong: category should be 'bug', not 'billing'.",
    )


def test_a_right_answer_is_told_so_and_names_no_other_value():
    assert score(EXACT, example("bug"), {"category": "bug"}) == (1.0, "Right: category is 'bug'.")


@pytest.mark.parametrize(
    ("expected", "answered", "hint"),
    [
        ("how-to", "How to.", "only capitals, punctuation"),
        ("bug", "The label is bug", "with other words around it"),
        (3, "3", "its type is not"),
    ],
)
def test_a_near_miss_says_what_kept_it_from_being_right(expected, answered, hint):
    assert hint in said(EXACT, expected, answered)


@pytest.mark.parametrize(("expected", "answered"), [("bug", "debugging"), ("", "bug"), ([1], [2]), ("bug", "")])
def test_an_answer_that_is_plainly_wrong_is_no_near_miss(expected, answered):
    assert "Near miss" not in said(EXACT, expected, answered)
    assert "type" not in said(EXACT, expected, answered)


def test_a_partly_right_text_is_told_its_missing_and_superfluous_words():
    points, feedback = score(F1, example("Paris and Rome"), {"category": "Paris or Oslo"})
    assert points == pytest.approx(1 / 3)
    assert "Missing: and, rome." in feedback
    assert "Too much: or, oslo." in feedback


def test_an_answer_that_failed_scores_nothing_and_says_why():
    points, feedback = score(EXACT, example("bug"), None, error="the model timed out")
    assert points == 0
    assert "the model timed out" in feedback
    assert "'bug'" in feedback
    assert score(EXACT, example("bug"), {"other": "bug"})[0] == 0


def test_what_people_remarked_and_other_corrected_fields_are_passed_on():
    labelled = example("bug", "it is a crash!", reply="Sorry", tone="kind")
    _, feedback = score(EXACT, labelled, {"category": "other", "reply": "Thanks", "tone": "kind"})
    assert "'it is a crash!'" in feedback
    assert "reply should be 'Sorry'." in feedback
    assert "tone" not in feedback


def test_long_values_are_quoted_in_part():
    feedback = said(EXACT, "x" * 5000, "y" * 5000)
    assert len(feedback) < 2 * LONGEST_QUOTE + 200
    assert "5002 characters" in feedback


def test_only_a_goal_with_labels_can_score_an_answer_nobody_has_seen():
    assert rescorable(EXACT) is None
    assert rescorable(F1) is None
    assert "no goal" in str(rescorable(None))
    assert "'boolean'" in str(rescorable(Metric(kind="boolean", role="goal")))
    assert "direction" in str(rescorable(Metric(kind="exact_match", field="a", direction="lower")))
