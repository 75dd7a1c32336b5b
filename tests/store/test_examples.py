"""What learning reads of production: inputs with labels and comments, the newest ones, told oldest first."""

import asyncio
from typing import Any

import pytest

from experiments.facts import shadow_id
from experiments.metrics import Metric
from server.store import Store, examples
from server.store.examples import examples_since
from server.store.tables import contents
from tests.store.made import content, opened, outcome, prediction, remark

pytestmark = pytest.mark.anyio

CORRECT = Metric(kind="exact_match", field="category", role="goal", sources=("human", "program"))
LIKED = Metric(kind="boolean", role="goal")


async def said(store: Store, name: str, *, at: int = 1_000, value: float | None = None, **reported: Any) -> None:
    """A prediction, and what is reported of it: `label` and `comment`, by `source`, and the goal's `value`."""
    with store.journal.reserve() as slot:
        one = prediction(prediction_id=name, created_at=at, status=reported.pop("status", "ok"))
        await slot.append(one, content(name, input={"ticket": name}))
    source = reported.get("source", "human")
    outcomes = [] if value is None else [outcome(name, value, source=source)]
    remarks = [
        remark(
            name,
            said if key == "comment" else None,
            label=said if key == "label" else None,
            digest=str(said),
            source=source,
        )
        for key, said in reported.items()
        if key != "source"
    ]
    await store.journal.record(outcomes, remarks)


async def test_an_example_has_the_label_of_whom_the_goal_trusts_most_and_every_comment(database_url: str) -> None:
    async with opened(database_url) as store:
        await said(store, "a", value=0.0, label={"category": "billing"}, comment="not again")
        await store.journal.record(
            [outcome("a", 1.0, source="program")],
            [
                remark("a", None, label={"category": "bug", "urgency": "high"}, source="program", digest="p"),
                remark("a", None, label={"category": "other"}, source="judge", digest="j"),
                remark("a", "from a judge", source="judge"),
            ],
        )
        (example,) = await store.read(examples_since, "triage", "correct", CORRECT, 0)
        assert example.label == {"category": "billing", "urgency": "high"}
        assert set(example.feedback) == {"not again", "from a judge"}
        assert (example.input, example.unit_hash, example.at) == ({"ticket": "a"}, "unit", 1_000)


async def test_what_cannot_be_learned_from_is_left_out(database_url: str) -> None:
    async with opened(database_url) as store:
        label = {"category": "bug"}
        await said(store, "kept", value=1.0, label=label)
        await said(store, "early", at=10, value=1.0, label=label)
        await said(store, "silent")
        await said(store, "comment only", comment="hm")
        await said(store, shadow_id("kept"), value=0.0, label=label)
        await said(store, "forgotten", value=1.0, label=label)
        await store.write(
            lambda conn: conn.execute(contents.delete().where(contents.c.prediction_id == "forgotten")).rowcount
        )
        found = await store.read(examples_since, "triage", "correct", CORRECT, 1_000)
        assert [example.prediction_id for example in found] == ["kept"]
        assert await store.read(examples_since, "another", "correct", CORRECT, 0) == []


async def test_an_answer_that_could_not_be_better_is_its_own_label(database_url: str) -> None:
    async with opened(database_url) as store:
        await said(store, "liked", value=1.0)
        await said(store, "disliked", value=0.0)
        await said(store, "failed", value=1.0, status="error")
        (example,) = await store.read(examples_since, "triage", "correct", LIKED, 0)
        assert (example.prediction_id, example.label) == ("liked", {"category": "bug"})


async def test_the_newest_are_kept_and_told_in_order(database_url: str) -> None:
    async with opened(database_url) as store:
        for number in range(7):
            await said(store, f"p{number}", at=1_000 + number // 2, value=1.0, label={"category": "bug"})
        found = await store.read(examples_since, "triage", "correct", CORRECT, 0, limit=4)
        assert [example.prediction_id for example in found] == ["p3", "p4", "p5", "p6"]


async def test_more_than_a_page_is_read_whole(sqlite_url: str) -> None:
    async with opened(sqlite_url) as store:
        label = {"category": "bug"}
        numbers = range(1_203)
        await asyncio.gather(
            *(said(store, f"p{number:04}", at=1_000 + number // 3, value=1.0, label=label) for number in numbers)
        )
        found = await store.read(examples_since, "triage", "correct", CORRECT, 0)
        assert [example.prediction_id for example in found] == [f"p{number:04}" for number in numbers]


@pytest.mark.parametrize("page", [1, 150, 10**6])
async def test_large_inputs_are_read_a_few_at_a_time_and_only_the_newest(
    database_url: str, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(examples, "_PAGE_TEXT", page)
    async with opened(database_url) as store:
        for number in range(6):
            name = f"{number}".rjust(100, "0")
            await said(store, name, at=1_000 + number, value=1.0, label={"category": "bug"})
        everything = await store.read(examples_since, "triage", "correct", CORRECT, 0)
        assert [example.at for example in everything] == list(range(1_000, 1_006))
        monkeypatch.setattr(examples, "MOST_TEXT", 400)
        some = await store.read(examples_since, "triage", "correct", CORRECT, 0)
        assert some == everything if page > 10**5 else some == everything[-len(some) :]
        assert page > 10**5 or 2 <= len(some) <= 4
