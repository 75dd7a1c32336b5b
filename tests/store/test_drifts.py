"""What the drift tick reads: predictions in order with the outcomes that came in time, reigns, samples of inputs."""

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa

from experiments.assignment import Routing
from experiments.facts import shadow_id
from server.store import Store, drifts
from server.store.drifts import Fact, facts_between, input_samples, reign_of
from server.store.routings import append_routing
from server.store.tables import contents
from tests.store.made import append, opened, outcome, prediction


async def read_facts(store: Store, start: int, end: int, **changes: Any) -> list[Fact]:
    how: dict[str, Any] = {"goal": "correct", "sources": ("human",), "maturity": 100, "limit": 10, **changes}
    return await store.read(facts_between, "triage", start, end, **how)


def ids(facts: list[Fact]) -> list[str]:
    return [fact.exposure.prediction_id for fact in facts]


def test_facts_come_in_the_order_of_predictions_and_only_from_their_stretch(database_url: str) -> None:
    async def play() -> None:
        async with opened(database_url) as store:
            made = [("d", 40), ("b", 20), ("c", 20), ("a", 10), ("e", 50)]
            await append(store, *(prediction(prediction_id=name, created_at=at) for name, at in made))
            await append(store, prediction(prediction_id="z", created_at=20, program="other"))
            assert ids(await read_facts(store, 10, 50)) == ["a", "b", "c", "d"]
            assert ids(await read_facts(store, 11, 50, limit=2)) == ["b", "c"]
            assert ids(await read_facts(store, 51, 60)) == []

    asyncio.run(play())


def test_only_outcomes_of_the_goal_by_its_sources_and_in_time_are_told(database_url: str) -> None:
    async def play() -> None:
        async with opened(database_url) as store:
            await append(store, prediction(prediction_id="p", created_at=1000))
            said = [
                outcome("p", 1.0, received_at=1099),
                outcome("p", 0.0, source="program", received_at=1001),
                outcome("p", 0.0, metric="rating", received_at=1001),
            ]
            late = outcome("q", 1.0, received_at=1100)
            await append(store, prediction(prediction_id="q", created_at=1000))
            with store.journal.reserve(4) as slot:
                await slot.record([*said, late])
            p, q = await read_facts(store, 0, 2000)
            assert p.exposure.outcomes == (("correct", "human", 1.0, 1099),)
            assert q.exposure.outcomes == ()
            assert [fact.exposure.outcomes for fact in await read_facts(store, 0, 2000, goal=None)] == [(), ()]

    asyncio.run(play())


def test_a_variant_that_comes_back_begins_another_reign(database_url: str) -> None:
    async def play() -> None:
        async with opened(database_url) as store:
            for epoch, champion in enumerate(["one", "one", "two", "one", "one"], start=1):
                routing = Routing(program="triage", epoch=epoch, champion=champion, reason="", created_at=epoch)
                await store.write(append_routing, routing)
            assert [routing.epoch for routing in await store.read(reign_of, "triage")] == [4, 5]
            assert [routing.epoch for routing in await store.read(reign_of, "triage", 1)] == [1, 2]
            assert await store.read(reign_of, "nobody") == []

    asyncio.run(play())


def test_samples_of_inputs_never_share_one(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        async with opened(database_url) as store:
            await append(store, *(prediction(prediction_id=f"p{n}", created_at=n) for n in range(10)))
            await append(store, prediction(prediction_id=shadow_id("p9"), created_at=9))

            async def spans(size: int, since: int = 0) -> list[tuple[int | None, int | None, int]]:
                samples = await store.read(input_samples, "triage", since, size)
                return [(sample.since, sample.until, len(sample.inputs)) for sample in samples]

            assert await spans(3) == [(0, 2, 3), (7, 9, 3)]
            assert await spans(5) == [(0, 4, 5), (5, 9, 5)]
            assert await spans(8) == [(0, 4, 5), (5, 9, 5)]
            assert await spans(100, since=4) == [(4, 6, 3), (7, 9, 3)]
            assert await spans(100, since=10) == [(None, None, 0), (None, None, 0)]
            monkeypatch.setattr(drifts, "MOST_TEXT", 30)
            (first, _, few), (_, last, fewer) = await spans(5)
            assert (first, last) == (0, 9), "large inputs: the first and the latest, fewer of them"
            assert 0 < few == fewer < 5
            await store.write(lambda conn: conn.execute(sa.delete(contents)))
            assert await spans(3) == [(None, None, 0), (None, None, 0)]

    asyncio.run(play())
