"""Input drift: found where there is some, rarely claimed where there is none, and never made up from nothing."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.inputs import LEAST_VALUES, Finding, findings
from tests.monitoring.streams import at_most

OLD = [f"old{i}" for i in range(400)]
NEW = [f"new{i}" for i in range(200)]


def rows(seed: int, n: int, *, mixed: float = 0.0, centre: float = 0.0, kinds: str = "abcde") -> list[dict[str, Any]]:
    """Inputs of which words (`mixed`: from another vocabulary), numbers and categories are drawn by the seed."""
    rng = random.Random(seed)
    return [
        {
            "ticket": " ".join(rng.choice(NEW if rng.random() < mixed else OLD) for _ in range(15)),
            "amount": rng.gauss(centre, 1),
            "plan": rng.choice(kinds),
            "urgent": rng.random() < 0.5,
            "fixed": 3,
        }
        for _ in range(n)
    ]


def found(seed: int, n: int = 400, **now: Any) -> dict[str, Finding]:
    return {each.field: each for each in findings(rows(seed, n), rows(seed + 10**6, n, **now), seed)}


def test_fields_are_taken_for_what_they_are():
    kinds = {name: each.kind for name, each in found(1).items()}
    assert kinds == {
        "ticket": "text",
        "amount": "numeric",
        "plan": "categorical",
        "urgent": "categorical",
        "fixed": "numeric",
    }


def test_where_nothing_changed_little_is_found():
    runs, level = 20, 0.02
    small = dict.fromkeys(("ticket", "amount", "plan", "urgent", "fixed"), 0)
    for seed in range(runs):
        for name, each in found(seed, n=150).items():
            small[name] += each.p_value < level
            assert not each.drifted or each.p_value < 0.001
    assert all(count <= at_most(level, runs) for count in small.values()), small


@pytest.mark.parametrize(
    ("now", "field"), [({"mixed": 0.1}, "ticket"), ({"centre": 0.4}, "amount"), ({"kinds": "abcdeee"}, "plan")]
)
def test_a_change_is_found_in_its_field_alone(now, field):
    drifted = {name for name, each in found(2, n=800, **now).items() if each.drifted}
    assert drifted == {field}


def test_a_change_too_small_to_matter_is_no_drift_however_certain_it_is():
    amount = numbers(60_000, 0.05)
    assert amount.p_value < 0.001
    assert 0 < amount.effect < 0.1
    assert not amount.drifted


def numbers(n: int, centre: float) -> Finding:
    rng = random.Random(4)
    sides = [[{"amount": rng.gauss(mean, 1)} for _ in range(n)] for mean in (0, centre)]
    return findings(sides[0], sides[1], seed=1)[0]


def test_the_sign_of_an_effect_onnumbers_says_where_they_went():
    assert numbers(500, 1.0).effect > 0.1
    assert numbers(500, -1.0).effect < -0.1


def test_of_few_values_nothing_is_said():
    few = findings(rows(1, 1000), rows(2, LEAST_VALUES - 1), seed=1)
    assert all((each.effect, each.p_value, each.drifted) == (None, None, False) and each.reason for each in few)
    assert findings([], [], seed=1) == []


def test_missing_values_are_left_out_and_a_new_field_is_named():
    before, now = rows(1, 100), [{**row, "plan": None, "channel": "web"} for row in rows(2, 100)]
    by_name = {each.field: each for each in findings(before, now, seed=1)}
    assert (by_name["plan"].reference, by_name["plan"].recent) == (100, 0)
    assert (by_name["channel"].reference, by_name["channel"].recent) == (0, 100)
    assert by_name["channel"].reason


def test_the_same_samples_and_seed_give_the_same_findings():
    assert found(7, n=100, mixed=0.2) == found(7, n=100, mixed=0.2)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("ab"),
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False)
            | st.text()
            | st.lists(st.integers()),
        ),
        max_size=6,
    )
)
@settings(max_examples=40, deadline=None)
def test_whatever_json_holds_is_looked_at_without_an_error(inputs):
    for each in findings(inputs * 30, inputs[::-1] * 30, seed=1):
        assert each.reason or (0 <= each.p_value <= 1 and -1 <= each.effect <= 1)
