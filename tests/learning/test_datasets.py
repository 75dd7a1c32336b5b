"""Datasets: what is sealed stays sealed, nothing stands on both sides, and the report adds up."""

import random
from collections import Counter
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from experiments.metrics import Metric
from learning.compile_runs import Dataset, Example
from learning.engines.triage import tickets
from learning.feedback.datasets import PER_UNIT, SEALED_SHARE, Sizes, build, sealed
from learning.feedback.quality import Quality

GOAL = Metric(kind="exact_match", field="category", role="goal")
TEXT = Metric(kind="token_f1", field="category", role="goal")
TINY = Sizes(least_train=0, least_val=0, least_holdout=0)
UNSEALED = [f"user-{n}" for n in range(2000) if not sealed("triage", f"user-{n}")]
SEALED = [f"user-{n}" for n in range(2000) if sealed("triage", f"user-{n}")]


def example(number: int, text: str, category: Any, unit: str | None = None, at: int | None = None) -> Example:
    return Example(
        prediction_id=f"p{number:05}",
        unit_hash=unit or f"unit-{number}",
        at=number if at is None else at,
        input={"ticket": text},
        label={"category": category},
    )


def stream(n: int, *, seed: int = 1, start: int = 0) -> list[Example]:
    written = tickets(seed, n, start=start)
    return [example(start + at, f"{start + at}: {one.text}", one.label) for at, one in enumerate(written)]


def built(examples: list[Example], goal: Metric = GOAL, **terms: Any) -> tuple[Dataset, Quality]:
    dataset, quality = build(examples, program="triage", goal=goal, **terms)
    assert dataset is not None, quality.refusal
    return dataset, quality


def parts(dataset: Dataset) -> dict[str, tuple[Example, ...]]:
    return {"train": dataset.train, "val": dataset.val, "holdout": dataset.holdout}


EXAMPLES = st.lists(
    st.builds(
        example,
        st.integers(0, 10_000),
        st.sampled_from(["it crashed", "it Crashed", "a refund", "how to export", "hello", "an invoice please", "?"]),
        st.sampled_from(["bug", "billing", "other"]),
        st.sampled_from([f"user-{n}" for n in range(12)]),
    ),
    max_size=60,
    unique_by=lambda one: one.prediction_id,
)


@given(EXAMPLES, st.randoms(use_true_random=False), st.sampled_from([GOAL, TEXT]))
def test_the_order_of_the_feedback_makes_no_difference(examples, shuffler, goal):
    shuffled = list(examples)
    shuffler.shuffle(shuffled)
    assert built(examples, goal, sizes=TINY) == built(shuffled, goal, sizes=TINY)


@given(EXAMPLES, EXAMPLES)
def test_what_was_sealed_once_is_never_learned_from_however_much_is_added(early, late):
    before, _ = built(early, sizes=TINY)
    after, _ = built([*early, *late], sizes=TINY)
    kept = {one.unit_hash for one in before.holdout}
    learned = {one.unit_hash for one in (*after.train, *after.val)}
    assert not kept & learned
    assert all(sealed("triage", one.unit_hash) for one in after.holdout)


@given(EXAMPLES, st.sampled_from([GOAL, TEXT]))
def test_no_unit_and_no_near_duplicate_stands_in_two_parts(examples, goal):
    dataset, _ = built(examples, goal, sizes=TINY)
    for of in (lambda one: one.unit_hash, lambda one: one.input["ticket"].lower()):
        seen = [{of(one) for one in part} for part in parts(dataset).values()]
        assert sum(map(len, seen)) == len(set().union(*seen))


@given(EXAMPLES, st.sampled_from([GOAL, TEXT]))
def test_nothing_that_a_sealed_unit_said_is_learned_from_even_where_its_label_was_outvoted(examples, goal):
    dataset, _ = built(examples, goal, sizes=TINY)
    said = {one.input["ticket"].lower() for one in examples if sealed("triage", one.unit_hash)}
    assert not said & {one.input["ticket"].lower() for one in (*dataset.train, *dataset.val)}


@given(EXAMPLES)
def test_every_example_is_in_a_part_or_counted_under_a_reason(examples):
    dataset, quality = built(examples, sizes=TINY, since=3000)
    assert quality.considered == len(examples)
    assert quality.used + sum(quality.left_out.values()) == len(examples)
    assert {name: len(part) for name, part in parts(dataset).items()} == {
        name: part.examples for name, part in quality.parts.items()
    }
    assert all(one.at >= 3000 for part in parts(dataset).values() for one in part)


def test_the_sealed_share_of_units_is_as_said_and_differs_between_programs():
    units = [f"user-{n}" for n in range(20_000)]
    inside = [sealed("triage", unit) for unit in units]
    assert sum(inside) / 20_000 == pytest.approx(SEALED_SHARE, abs=0.015)
    assert inside != [sealed("other", unit) for unit in units]


def test_parts_keep_to_their_limits_and_hold_the_newest():
    dataset, quality = built(stream(3000))
    assert (len(dataset.train), len(dataset.val), len(dataset.holdout)) == (200, 100, 300)
    ages = {name: sum(one.at for one in part) / len(part) for name, part in parts(dataset).items()}
    assert ages["val"] > ages["train"] > 1500
    assert min(one.at for one in dataset.holdout) > 1500
    assert quality.left_out["beyond the limit"] == quality.considered - 600 - sum(
        count for reason, count in quality.left_out.items() if reason != "beyond the limit"
    )


def test_classes_keep_their_shares_in_every_part():
    dataset, quality = built(stream(3000))
    everywhere = Counter(one.label["category"] for one in stream(3000))
    for name, part in parts(dataset).items():
        classes = Counter(one.label["category"] for one in part)
        assert quality.parts[name].classes == dict(sorted(classes.items()))
        for category, count in classes.items():
            assert count / len(part) == pytest.approx(everywhere[category] / 3000, abs=0.03)


def test_a_rare_class_is_in_every_part_that_has_room():
    rare = [example(5000 + n, f"press enquiry number {n} of ours", "press", at=n) for n in range(12)]
    dataset, _ = built([*stream(3000), *rare])
    for part in parts(dataset).values():
        assert any(one.label["category"] == "press" for one in part)


def test_the_majority_of_units_settles_a_contradiction_and_a_tie_loses_all():
    a, b, c, d = UNSEALED[:4]
    said = [
        *(example(n, "it freezes", "other", unit=a) for n in range(5)),
        example(10, "it freezes", "bug", unit=b),
        example(11, "it freezes", "bug", unit=c),
        example(12, "a refund", "billing", unit=d),
        example(13, "a refund", "other", unit=a),
    ]
    dataset, quality = built(said, sizes=TINY)
    (kept,) = [one for part in parts(dataset).values() for one in part]
    assert (kept.prediction_id, kept.label) == ("p00011", {"category": "bug"})
    assert quality.contradictory_inputs == 2
    assert {frozenset(ids) for ids in quality.contradictions} == {
        frozenset(one.prediction_id for one in said[:7]),
        frozenset({"p00012", "p00013"}),
    }
    assert quality.left_out == {
        "outvoted by another label for the same input": 5,
        "labels for the same input in a tie": 2,
        "duplicate": 1,
    }


def test_two_wordings_of_a_free_text_do_not_contradict_each_other():
    said = [example(1, "capital?", "Paris", unit=UNSEALED[0]), example(2, "capital?", "It's Paris", unit=UNSEALED[1])]
    dataset, quality = built(said, TEXT, sizes=TINY)
    assert [one.prediction_id for one in dataset.train] == ["p00002"]
    assert quality.contradictory_inputs == 0


def test_what_a_sealed_unit_says_too_is_not_learned_from():
    said = [example(1, "it crashed", "bug", unit=SEALED[0]), example(2, "it crashed", "bug", unit=UNSEALED[0])]
    dataset, quality = built(said, sizes=TINY)
    assert [one.prediction_id for one in dataset.holdout] == ["p00001"]
    assert not dataset.train
    assert quality.left_out == {"also said by a sealed unit": 1}


def test_a_talkative_unit_does_not_speak_for_all():
    talk = [example(10_000 + n, f"message {n} about {n * n}", "bug", unit=UNSEALED[0]) for n in range(500)]
    dataset, _ = built([*stream(300), *talk])
    assert sum(one.unit_hash == UNSEALED[0] for one in (*dataset.train, *dataset.val)) == PER_UNIT


def test_feedback_without_a_label_for_the_goal_is_left_out_and_lowers_the_coverage():
    silent = [Example(prediction_id=f"s{n}", unit_hash=f"s{n}", at=n, input={"t": n}, label={}) for n in range(300)]
    _, quality = built([*stream(200), *silent])
    assert quality.left_out["without a label for the goal"] == 300
    assert quality.coverage == pytest.approx(0.4)
    assert any("only 40% of the feedback" in warning for warning in quality.warnings)


def test_too_few_examples_are_refused_with_the_numbers():
    dataset, quality = build(stream(30), program="triage", goal=GOAL)
    assert dataset is None
    holdout = quality.parts["holdout"].examples
    assert f"{holdout} in the sealed holdout" in str(quality.refusal)
    assert "10, 5 and 20 needed" in str(quality.refusal)
    assert "30 predictions with feedback" in str(quality.refusal)


def test_a_hundred_labels_are_enough():
    dataset, _ = built(stream(100))
    assert len(dataset.train) >= 30
    assert len(dataset.val) >= 15
    assert len(dataset.holdout) >= 30


def test_no_feedback_at_all_is_refused_too():
    dataset, quality = build([], program="triage", goal=GOAL)
    assert dataset is None
    assert quality.coverage == 0
    assert (quality.first_at, quality.last_at) == (None, None)


def test_a_single_unit_that_says_everything_cannot_be_divided():
    everything = [example(n, f"message {n} about {n * n}", "bug", unit=UNSEALED[0]) for n in range(500)]
    dataset, quality = build(everything, program="triage", goal=GOAL)
    assert dataset is None
    assert "of 1 units" in str(quality.refusal)


def test_one_sided_and_rare_labels_are_warned_of():
    plenty = [example(n, f"message {n} about {n * n}", "bug") for n in range(400)]
    _, quality = built([*plenty, example(1000, "hello there", "other", unit=SEALED[0])])
    assert any("are 'bug': to say so always scores that" in warning for warning in quality.warnings)
    assert any("'other' (0)" in warning for warning in quality.warnings)


def test_the_digest_follows_the_content():
    dataset, _ = built(stream(200))
    assert built(stream(200))[0].digest == dataset.digest
    assert built(stream(201))[0].digest != dataset.digest
    remarked = [Example(**{**vars_of(one), "feedback": ("no!",)}) for one in stream(200)]
    assert built(remarked)[0].digest != dataset.digest


def vars_of(one: Example) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__struct_fields__}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_first_examples_of_a_part_are_as_good_as_the_whole(seed):
    dataset, _ = built(stream(3000, seed=seed))
    first = dataset.holdout[:100]
    assert len({one.label["category"] for one in first}) == 4
    assert abs(sum(one.at for one in first) / 100 - sum(one.at for one in dataset.holdout) / 300) < 200


def test_twenty_thousand_examples_are_no_trouble():
    draw = random.Random(1)
    words = [f"word{n}" for n in range(3000)]
    texts = [" ".join(draw.choices(words, k=60)) for _ in range(20_000)]
    dataset, _ = built([example(n, text, draw.choice(["bug", "other"])) for n, text in enumerate(texts)])
    assert len(dataset.holdout) == 300
