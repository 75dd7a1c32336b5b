"""What is read of facts: units of a block, counts by arm, the examples browser, analytics."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from experiments.assignment import holdback_id
from experiments.errors import Stale
from experiments.facts import ArmCounts, Call, Outcome, Prediction, Remark
from experiments.metrics import Source
from server.store import blocks
from server.store.analytics import Score, analytics
from server.store.appending import Entry, append, predicted
from server.store.blocks import Kept, Randomize, block_units, register_units, unit_counts
from server.store.engine import Database
from server.store.facts import prediction_page
from tests.store.made import content, outcome, prediction, remark

HUMAN_FIRST: tuple[Source, ...] = ("human", "program", "judge")


@pytest.fixture
def conn(database_url: str) -> Iterator[sa.Connection]:
    """The writing connection, in a transaction."""
    database = Database(database_url)
    with database.writer.begin() as connection:
        yield connection
    database.close()


def keep(conn: sa.Connection, made: Sequence[Prediction], said: Sequence[Outcome | Remark] = ()) -> None:
    """Store facts."""
    append(conn, [predicted(one, content(one.prediction_id), None) for one in made])
    for one in said:
        append(conn, [Entry(outcomes=(one,)) if isinstance(one, Outcome) else Entry(remarks=(one,))])


def exposed(prediction_id: str, unit: str, at: int, arm: str = "base", **stated: Any) -> Prediction:
    return prediction(
        prediction_id=prediction_id, unit_hash=unit, created_at=at, assigned_variant=arm, experiment_id="e", **stated
    )


def units(
    conn: sa.Connection, randomize: Randomize, number: int, **stated: Any
) -> list[tuple[str, str, int, list[str]]]:
    """The units of a block of 100 µs: hash, arm, entry, prediction ids."""
    values: dict[str, Any] = {"cut": 10_000, "window": 1_000, **stated}
    found = block_units(conn, "e", randomize, number, number * 100, number * 100 + 100, **values)
    return [(u.unit_hash, u.arm, u.entered_at, [x.prediction_id for x in u.exposures]) for u in found]


def register(conn: sa.Connection, number: int, randomize: Randomize = "unit") -> dict[int, dict[str, int]]:
    return register_units(conn, "e", randomize, number, number * 100, number * 100 + 100)


def test_a_unit_enters_once_with_its_first_prediction(conn: sa.Connection) -> None:
    keep(
        conn,
        [
            exposed("p3", "ada", 150, "new", epoch=2),
            exposed("p1", "ada", 20),
            exposed("p2", "ada", 10),
            exposed("p4", "bob", 99),
            exposed("p5", "cleo", 100, "new", epoch=2),
            prediction(unit_hash="outside", created_at=15, experiment_id=None),
            prediction(unit_hash="elsewhere", created_at=15, experiment_id="other"),
        ],
    )
    assert register(conn, 0) == {1: {"base": 2}}
    assert register(conn, 0) == {1: {"base": 2}}
    assert register(conn, 1) == {2: {"new": 1}}
    assert unit_counts(conn, "e", "unit", 2, 200, 300) == {}
    assert units(conn, "unit", 0) == [("ada", "base", 10, ["p2", "p1"]), ("bob", "base", 99, ["p4"])]
    assert units(conn, "unit", 1) == [("cleo", "new", 100, ["p5"])]


def test_of_predictions_made_at_one_moment_the_lesser_id_is_the_first(conn: sa.Connection) -> None:
    keep(conn, [exposed("b", "ada", 10, "new"), exposed("a", "ada", 10, "base"), exposed("A", "ada", 10, "base")])
    register(conn, 0)
    assert units(conn, "unit", 0) == [("ada", "base", 10, ["A", "a"])]


def test_a_unit_counts_with_its_first_predictions_within_its_window_and_before_the_cut(conn: sa.Connection) -> None:
    keep(conn, [exposed(f"p{i}", "ada", 10 + 100 * i) for i in range(12)])
    register(conn, 0)
    assert units(conn, "unit", 0)[0][3] == ["p0", "p1", "p2", "p3", "p4"]
    assert units(conn, "unit", 0, per_unit=100)[0][3] == [f"p{i}" for i in range(10)]
    assert units(conn, "unit", 0, cut=210)[0][3] == ["p0", "p1"]


def test_a_unit_may_count_under_the_split_of_its_entry_alone(conn: sa.Connection) -> None:
    keep(conn, [exposed("p1", "ada", 10), exposed("p2", "ada", 20), exposed("p3", "ada", 110, epoch=2)])
    register(conn, 0)
    assert units(conn, "unit", 0)[0][3] == ["p1", "p2", "p3"]
    assert units(conn, "unit", 0, one_epoch=True)[0][3] == ["p1", "p2"]


@pytest.mark.parametrize("randomize", ["unit", "request"])
def test_a_holdback_has_units_of_its_own_from_its_epoch_on(conn: sa.Connection, randomize: Randomize) -> None:
    keep(conn, [exposed("p1", "ada", 10), exposed("p2", "ada", 20, "new", epoch=7), exposed("p3", "bob", 30, epoch=7)])
    register(conn, 0, randomize)
    held = holdback_id("e", 7)
    assert register_units(conn, held, randomize, 0, 0, 100) == {7: {"base": 1, "new": 1}}
    found = block_units(conn, held, randomize, 0, 0, 100, cut=10_000, window=1_000)
    assert [(u.unit_hash, u.arm, [x.prediction_id for x in u.exposures]) for u in found] == [
        ("ada", "new", ["p2"]),
        ("bob", "base", ["p3"]),
    ]


def test_under_randomize_request_every_prediction_is_a_unit(conn: sa.Connection) -> None:
    keep(conn, [exposed("p1", "one", 10), exposed("p2", "two", 20, "new"), exposed("p3", "three", 100)])
    assert register(conn, 0, "request") == {1: {"base": 1, "new": 1}}
    assert units(conn, "request", 0) == [("one", "base", 10, ["p1"]), ("two", "new", 20, ["p2"])]
    assert units(conn, "request", 0, cut=20) == [("one", "base", 10, ["p1"])]


def test_under_randomize_request_the_tries_with_one_key_are_one_unit_the_first(conn: sa.Connection) -> None:
    keep(
        conn,
        [
            exposed("p1", "key", 10, "new", status="error", variant=None),
            exposed("p2", "key", 20, "new"),
            exposed("p3", "key", 110, "new"),
            exposed("p4", "other", 30),
            prediction(unit_hash="other", created_at=15, experiment_id="another"),
        ],
    )
    assert register(conn, 0, "request") == {1: {"base": 1, "new": 1}}
    assert units(conn, "request", 0) == [("key", "new", 10, ["p1"]), ("other", "base", 30, ["p4"])]
    assert register(conn, 1, "request") == {}
    assert units(conn, "request", 1) == []


@pytest.mark.parametrize("randomize", ["unit", "request"])
def test_an_exposure_brings_what_was_reported_in_time_and_before_the_cut(
    conn: sa.Connection, randomize: Randomize
) -> None:
    failed = exposed("p1", "ada", 10, status="fallback", variant="champion", latency=77, cost=None, assigned_tokens=9)
    keep(
        conn,
        [failed],
        [
            outcome("p1", 1.0, received_at=500),
            outcome("p1", 0.25, source="judge", received_at=600),
            outcome("p1", 4.0, metric="rating", received_at=600, late=True),
            outcome("p1", 3.0, metric="other", received_at=700),
        ],
    )
    register(conn, 0, randomize)
    (unit,) = block_units(conn, "e", randomize, 0, 0, 100, cut=700, window=1_000)
    (exposure,) = unit.exposures
    assert (exposure.failed, exposure.latency, exposure.cost, exposure.created_at) == (True, 77, None, 10)
    assert exposure.tokens == 9, "of the variant assigned, not those of all calls"
    assert exposure.outcomes == (("correct", "human", 1.0, 500), ("correct", "judge", 0.25, 600))


def test_empty_blocks_can_be_passed_over(conn: sa.Connection) -> None:
    keep(conn, [exposed("p1", "ada", 510)])
    assert blocks.next_exposure(conn, "e", 0, 1_000) == 510
    assert blocks.next_exposure(conn, "e", 511, 1_000) is None


def test_predictions_are_counted_by_what_became_of_them(conn: sa.Connection) -> None:
    keep(
        conn,
        [exposed(f"p{i}", f"u{i}", 100 * i, "new" if i == 5 else "base") for i in range(6)],
        [
            outcome("p0", received_at=50),
            outcome("p1", late=True, received_at=5_000),
            outcome("p2", source="judge", received_at=250),
            outcome("p2", source="program", received_at=250),
            outcome("p5", metric="other", received_at=550),
        ],
    )
    counted = blocks.arm_counts(conn, "e", "correct", ["human", "judge", "program"], cut=6_000, window=5_700)
    assert counted == {"base": ArmCounts(5, 2, 1, 2, 1), "new": ArmCounts(1, 0, 1, 0, 0)}
    assert blocks.arm_counts(conn, "e", "correct", ["judge"], cut=240, window=5_700) == {
        "base": ArmCounts(3, 0, 3, 0, 0)
    }


def test_of_two_ticks_on_the_same_evidence_the_slower_one_is_told(conn: sa.Connection) -> None:
    assert blocks.kept_evidence(conn, "e", dict[str, float]) is None
    blocks.keep_evidence(conn, "e", {"x": 0.1}, blocks=1, horizon=100, before=None)
    with pytest.raises(Stale):
        blocks.keep_evidence(conn, "e", {"x": 0.2}, blocks=1, horizon=100, before=None)
    before = blocks.kept_evidence(conn, "e", dict[str, float])
    assert before == Kept(1, 100, {"x": 0.1})
    blocks.keep_evidence(conn, "e", {"x": 0.3}, blocks=2, horizon=200, before=before)
    with pytest.raises(Stale):
        blocks.keep_evidence(conn, "e", {"x": 0.4}, blocks=2, horizon=200, before=before)
    blocks.close_block(conn, "e", 3, 400)
    blocks.close_block(conn, "e", 0, 100)
    with pytest.raises(Stale):
        blocks.close_block(conn, "e", 0, 101)
    assert list(blocks.closed_blocks(conn, "e").items()) == [(0, 100), (3, 400)]


def test_points_are_kept_once_and_in_order(conn: sa.Connection) -> None:
    for number, body in ((2, [0.2]), (1, [0.1]), (1, [0.9])):
        blocks.put_point(conn, "e", number, "new", "correct", body)
    assert blocks.points_of(conn, "e", list[float]) == [[0.1], [0.2]]


def test_an_example_shows_everything_that_was_said_about_it(conn: sa.Connection) -> None:
    keep(
        conn,
        [exposed("p1", "ada", 10)],
        [
            outcome("p1", 1.0, digest="d1", received_at=20),
            outcome("p1", 0.0, digest="d2", received_at=30),
            outcome("p1", 3.0, metric="rating", digest="d3", late=True, received_at=40),
            remark("p1", "yes", digest="d1", label={"category": "bug"}, received_at=20),
            remark("p1", "by the way", digest="d9", received_at=50),
        ],
    )
    (found,) = prediction_page(conn, "triage").items
    assert found.content == content("p1")
    told = [(r.metric, r.value, r.label, r.comment, r.status) for r in found.outcomes]
    assert told == [
        ("correct", 1.0, {"category": "bug"}, "yes", "accepted"),
        ("correct", 0.0, None, None, "conflict"),
        ("rating", 3.0, None, None, "late"),
        (None, None, None, "by the way", "accepted"),
    ]


def test_examples_can_be_picked(conn: sa.Connection) -> None:
    keep(
        conn,
        [exposed(f"p{i}", "ada", i, "new" if i % 2 else "base") for i in range(6)],
        [outcome("p1", 0.0), outcome("p2", 1.0), outcome("p3", 1.0), outcome("p4", 0.0, metric="rating")],
    )

    def picked(**wanted: Any) -> list[str]:
        return [found.prediction.prediction_id for found in prediction_page(conn, "triage", **wanted).items]

    assert picked() == ["p5", "p4", "p3", "p2", "p1", "p0"]
    assert picked(variant="new") == ["p5", "p3", "p1"]
    assert picked(metric="correct") == ["p3", "p2", "p1"]
    assert picked(metric="correct", value=0.0) == ["p1"]
    assert picked(value=0.0) == ["p4", "p1"]
    assert picked(since=3, variant="base") == ["p4"]
    page = prediction_page(conn, "triage", variant="new", limit=2)
    following = prediction_page(conn, "triage", variant="new", limit=2, cursor=page.next_cursor)
    assert [found.prediction.prediction_id for found in following.items] == ["p1"]
    assert following.next_cursor is None


def test_analytics_count_by_assigned_variant_and_cost_by_whose_calls_they_were(conn: sa.Connection) -> None:
    own, other = Call("new", "m", 1, 1, 30, 5), Call("base", "m", 1, 1, 500, 5)
    keep(
        conn,
        [
            *(exposed(f"p{i}", "u", i, latency=i + 1, cost=100, assigned_cost=100) for i in range(100)),
            exposed("f", "u", 1, "new", status="fallback", cost=530, assigned_cost=30, calls=(own, other)),
            exposed("x", "u", 1, "new", status="error", variant=None, cost=30, assigned_cost=30, calls=(own,)),
            exposed("later", "u", 1_000, "new"),
        ],
        [
            outcome("p1", 0.0, source="judge"),
            outcome("p1", 1.0, source="human"),
            outcome("p2", 0.0, source="program"),
            outcome("p3", 9.0, metric="unknown"),
            outcome("f", 1.0),
        ],
    )
    base, new = analytics(conn, "triage", 0, 1_000, {"correct": HUMAN_FIRST})
    assert (base.variant, base.predictions, base.errors, base.fallbacks) == ("base", 100, 0, 0)
    assert base.latency == (50, 95, 99)
    assert (base.cost, new.cost) == (100 * 100 + 500, 60)
    assert base.scores == {"correct": Score(2, 0.5, 0)}
    assert (new.predictions, new.errors, new.fallbacks) == (2, 1, 1)
    assert new.scores == {"correct": Score(0, None, 1)}
    assert analytics(conn, "none", 0, 1_000, {}) == []


def test_a_cost_with_an_unpriced_call_in_it_is_unknown(conn: sa.Connection) -> None:
    keep(conn, [exposed("a", "u", 1), exposed("b", "u", 1, cost=None, assigned_cost=None)])
    (base,) = analytics(conn, "triage", 0, 10, {})
    assert base.cost is None
