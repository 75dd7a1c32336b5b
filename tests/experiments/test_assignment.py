import hashlib
import math
from collections import Counter
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from scipy.stats import binomtest, chisquare, kstest

from experiments.assignment import Assignment, Routing, draw, route, uniform

UNITS = [f"user-{i}" for i in range(4000)]
TEXT = st.text(max_size=20) | st.text(st.characters(categories=["Cs"]), max_size=3)


def routing(**terms: Any) -> Routing:
    fixed: dict[str, Any] = {"program": "triage", "epoch": 3, "champion": "base", "reason": "start", "created_at": 0}
    open_split = {"experiment_id": "e-1", "split": {"base": 0.8, "new": 0.2}}
    return Routing(**{**fixed, **open_split, **terms})


def test_vectors_never_change():
    # Frozen: a change here would re-randomise every running experiment.
    assert uniform("salt", "user-0", "base") == 0.031364535866936716
    assert [draw("salt", f"user-{i}", {"base": 0.5, "new": 0.5}) for i in range(6)] == [
        "new", "base", "new", "base", "base", "new"
    ]  # fmt: skip
    assert [draw("salt", f"user-{i}", {"base": 0.9, "new": 0.1}) for i in range(6)] == [
        "base", "base", "new", "base", "base", "base"
    ]  # fmt: skip


def test_the_hash_is_sha_256_of_the_parts_behind_their_lengths():
    key = b"".join(len(part).to_bytes(8, "big") + part for part in (b"salt", "zoë".encode(), b"base"))
    assert uniform("salt", "zoë", "base") == pytest.approx(
        int(hashlib.sha256(key).hexdigest()[:16], 16) / 2**64, abs=2**-53
    )


def test_the_hash_is_uniform():
    assert kstest([uniform("salt", unit, "base") for unit in UNITS], "uniform").pvalue > 0.001


@pytest.mark.parametrize(
    "split", [{"base": 0.5, "new": 0.5}, {"base": 0.95, "new": 0.05}, {"base": 0.6, "new": 0.3, "other": 0.1}]
)
def test_arms_receive_their_shares(split):
    counts = Counter(draw("salt", unit, split) for unit in UNITS)
    assert chisquare([counts[arm] for arm in split], [share * len(UNITS) for share in split.values()]).pvalue > 0.001


def test_units_of_one_experiment_are_fresh_coins_in_the_next():
    split = {"base": 0.5, "new": 0.5}
    same = sum(draw("first", unit, split) == draw("second", unit, split) for unit in UNITS)
    assert binomtest(same, len(UNITS), 0.5).pvalue > 0.001


@given(TEXT, TEXT, st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_a_unit_stays_with_the_challenger_while_its_share_grows(salt, unit, one, another):
    small, large = sorted((one, another))
    if draw(salt, unit, {"base": 1 - small, "new": small}) == "new":
        assert draw(salt, unit, {"base": 1 - large, "new": large}) == "new"


@given(TEXT, TEXT, st.lists(st.floats(0.01, 0.49), min_size=2, max_size=6))
def test_units_only_ever_leave_the_champion_when_two_challengers_grow_together(salt, unit, steps):
    arms = [draw(salt, unit, {"base": 1 - 2 * s, "new": s, "other": s}) for s in sorted(steps)]
    left = [arm for arm in arms if arm != "base"]
    assert arms == ["base"] * (len(arms) - len(left)) + left[:1] * len(left)


@given(TEXT, TEXT)
def test_the_order_in_which_arms_are_written_makes_no_difference(salt, unit):
    split = {"base": 0.2, "new": 0.3, "other": 0.5}
    assert draw(salt, unit, split) == draw(salt, unit, dict(reversed(split.items())))


@given(TEXT, TEXT)
def test_an_arm_without_a_share_meets_nobody(salt, unit):
    assert draw(salt, unit, {"base": 0.0, "new": 1.0}) == "new"


@given(TEXT, TEXT, TEXT)
def test_a_hash_lies_strictly_between_nought_and_one(salt, unit, arm):
    assert 0 < uniform(salt, unit, arm) < 1
    assert math.isfinite(math.log(uniform(salt, unit, arm)))


def test_parts_of_the_key_do_not_run_together():
    assert uniform("ab", "c", "d") != uniform("a", "bc", "d") != uniform("a", "b", "cd")


def test_an_open_experiment_logs_the_share_the_unit_was_drawn_with():
    drawn = {unit: route(routing(), unit) for unit in UNITS[:200]}
    assert {assignment.variant for assignment in drawn.values()} == {"base", "new"}
    for assignment in drawn.values():
        assert assignment.propensity == {"base": 0.8, "new": 0.2}[assignment.variant]
        assert assignment.experiment_id == "e-1"


@pytest.mark.parametrize("terms", [{"state": "paused"}, {"state": "full"}, {"experiment_id": None, "split": {}}])
def test_the_champion_serves_everybody_and_nothing_counts_while_no_experiment_is_open(terms):
    closed = routing(**terms)
    assert not closed.live
    assert {route(closed, unit) for unit in UNITS[:50]} == {Assignment("base", 1.0, None)}


def test_a_resumed_experiment_gives_every_unit_its_variant_back():
    before = [route(routing(), unit) for unit in UNITS[:300]]
    assert [route(routing(epoch=5), unit) for unit in UNITS[:300]] == before


def test_a_holdback_logs_its_shares_and_tosses_new_coins():
    held = routing(state="holdback", champion="new", split={"base": 0.2, "new": 0.8}, epoch=7)
    assert held.live
    assert held.running is None
    before = {unit for unit in UNITS if route(routing(), unit).variant == "base"}
    after = {unit for unit in UNITS if route(held, unit).variant == "base"}
    assert {route(held, unit).propensity for unit in after} == {0.2}
    assert len(after & before) / len(after) == pytest.approx(len(before) / len(UNITS), abs=0.1)
