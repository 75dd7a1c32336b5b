"""Predictions through the real application: routed, answered, recorded, whatever happens to model or caller."""

import asyncio
from typing import Any

import pytest
from dspy.lm15 import ServerError

from experiments.assignment import Routing, route
from server.store.facts import Example, example, prediction_page
from server.store.routings import append_routing, routing_in_force
from tests.application import DEFINITIONS, Application, application
from tests.scripted_lm import Reply, chat


async def stored(app: Application, prediction_id: str) -> Example:
    found = await app.ratchet.store.read(example, prediction_id)
    assert found is not None
    return found


async def split(
    app: Application, *, randomize: str = "unit", state: str = "open", covariates: tuple[str, ...] = ()
) -> str:
    """Put `base` and a second variant, `terse`, on trial at even shares; returns the experiment's id."""
    made = await app.http.post("/v1/programs/triage/variants", json={"name": "terse", "instructions": "Be terse."})
    assert made.status_code in (200, 201), made.text
    now = await app.ratchet.store.read(routing_in_force, "triage")
    assert now is not None
    trial = Routing(
        program="triage",
        epoch=now.epoch + 1,
        champion="base",
        experiment_id="trial",
        split={"base": 0.5, "terse": 0.5},
        randomize=randomize,  # type: ignore[arg-type]
        covariates=covariates,
        state=state,  # type: ignore[arg-type]
        reason="test",
        created_at=app.ratchet.now(),
    )
    await app.ratchet.store.write(append_routing, trial)
    await app.ratchet.traffic.refresh()
    return "trial"


def terse(prompt: str) -> bool:
    return "Be terse." in prompt


def units(variant: str, *, count: int = 3) -> list[str]:
    """Units that the even split of `trial` gives to a variant."""
    routing = Routing(
        program="triage",
        epoch=2,
        champion="base",
        experiment_id="trial",
        split={"base": 0.5, "terse": 0.5},
        reason="",
        created_at=0,
    )
    return [unit for unit in map(str, range(100)) if route(routing, unit).variant == variant][:count]


def test_an_answered_prediction_is_on_disk_with_its_bill(database_url: str) -> None:
    async def play() -> None:
        async with application(database_url) as app:
            answer = await app.predict("It crashed", unit="ann", metadata={"from": "mail"})
            assert answer.status_code == 200
            told = answer.json()
            assert set(told) == {
                "prediction_id",
                "program",
                "variant",
                "assigned_variant",
                "experiment_id",
                "propensity",
                "output",
                "fallback",
                "usage",
                "cost_usd",
                "latency_ms",
            }
            assert (told["program"], told["variant"], told["assigned_variant"]) == ("triage", "base", "base")
            assert (told["experiment_id"], told["propensity"], told["fallback"]) == (None, 1.0, False)
            assert told["output"] == {"category": "bug"}
            assert told["usage"] == {"input_tokens": 100, "output_tokens": 10}
            assert told["cost_usd"] == "0.00012"
            fact = await stored(app, told["prediction_id"])
            assert fact.content is not None
            assert (fact.content.unit, fact.content.input) == ("ann", {"ticket": "It crashed"})
            assert (fact.content.output, fact.content.metadata) == ({"category": "bug"}, {"from": "mail"})
            assert (fact.prediction.status, fact.prediction.cost, len(fact.prediction.calls)) == ("ok", 120_000_000, 1)
            assert "ann" not in fact.prediction.unit_hash

    asyncio.run(play())


def test_a_unit_meets_the_arm_of_its_hash_and_its_propensity_is_kept(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            experiment_id = await split(app)
            for variant in ("base", "terse"):
                for unit in units(variant):
                    for _ in range(2):
                        told = (await app.predict(unit=unit)).json()
                        assert (told["assigned_variant"], told["variant"]) == (variant, variant)
                        assert (told["experiment_id"], told["propensity"]) == (experiment_id, 0.5)
            hashes = {(await stored(app, told["prediction_id"])).prediction.unit_hash}
            hashes.add((await stored(app, (await app.predict(unit=unit)).json()["prediction_id"])).prediction.unit_hash)
            assert len(hashes) == 1

    asyncio.run(play())


def test_only_what_the_experiment_asked_for_is_copied_from_the_metadata_to_the_facts(database_url: str) -> None:
    sent = {"kind": "long", "size": 3, "paid": True, "notes": ["a"], "essay": "x" * 65, "secret": "s"}

    async def play() -> None:
        async with application(database_url) as app:
            await split(app, covariates=("kind", "size", "paid", "notes", "essay", "absent"))
            answer = (await app.predict(unit="ann", metadata=sent)).json()
            pinned = (await app.predict(unit="ann", metadata=sent, variant="terse")).json()
            assert (await stored(app, answer["prediction_id"])).prediction.covariates == {
                "kind": "long",
                "size": 3.0,
                "paid": 1.0,
            }
            assert (await stored(app, pinned["prediction_id"])).prediction.covariates == {}

    asyncio.run(play())


@pytest.mark.parametrize("state", ["paused", "full"])
def test_a_paused_or_full_experiment_leaves_everything_to_the_champion(sqlite_url: str, state: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            await split(app, state=state)
            for unit in units("terse"):
                told = (await app.predict(unit=unit)).json()
                assert (told["variant"], told["experiment_id"], told["propensity"]) == ("base", None, 1.0)

    asyncio.run(play())


def test_a_failing_challenger_is_covered_by_the_champion_and_charged(sqlite_url: str) -> None:
    def script(_model: str, prompt: str) -> Any:
        return ServerError("down") if terse(prompt) else chat(category="billing")

    async def play() -> None:
        async with application(sqlite_url, script) as app:
            experiment_id = await split(app)
            told = (await app.predict(unit=units("terse")[0])).json()
            assert (told["variant"], told["assigned_variant"], told["fallback"]) == ("base", "terse", True)
            assert (told["experiment_id"], told["output"]) == (experiment_id, {"category": "billing"})
            fact = (await stored(app, told["prediction_id"])).prediction
            assert (fact.status, fact.error, fact.assigned_variant) == ("fallback", "lm-failed", "terse")
            assert (fact.assigned_cost, fact.assigned_tokens) == (None, None)
            assert (fact.input_tokens, fact.output_tokens) == (100, 10)
            assert (
                'ratchet_predictions_total{program="triage",status="fallback",variant="terse"} 1.0'
                in (await app.http.get("/metrics")).text
            )

    asyncio.run(play())


@pytest.mark.parametrize(("reply", "status", "kind"), [
    (ServerError("down"), 502, "lm-failed"),
    (Reply(chat(category="bug"), seconds=30), 504, "lm-timeout"),
    (chat(category="neither"), 502, "lm-failed"),
])  # fmt: skip
def test_a_prediction_nobody_answered_is_a_problem_and_is_recorded(
    sqlite_url: str, reply: Any, status: int, kind: str
) -> None:
    async def play() -> None:
        quick = DEFINITIONS.replace("timeout: 5s", "timeout: 300ms")
        async with application(sqlite_url, lambda _model, _prompt: reply, definitions=quick) as app:
            answer = await app.predict()
            problem = answer.json()
            assert (answer.status_code, problem["type"], problem["status"]) == (status, kind, status)
            assert answer.headers["content-type"] == "application/problem+json"
            fact = (await stored(app, problem["prediction_id"])).prediction
            assert (fact.status, fact.error, fact.variant) == ("error", kind, None)

    asyncio.run(play())


def test_a_pinned_variant_counts_in_no_test_and_does_not_fall_back(sqlite_url: str) -> None:
    def script(_model: str, prompt: str) -> Any:
        return ServerError("down") if terse(prompt) else chat(category="bug")

    async def play() -> None:
        async with application(sqlite_url, script) as app:
            await split(app)
            told = (await app.predict(unit=units("terse")[0], variant="base")).json()
            assert (told["variant"], told["experiment_id"], told["propensity"]) == ("base", None, 1.0)
            failed = await app.predict(variant="terse")
            assert (failed.status_code, failed.json()["type"]) == (502, "lm-failed")
            unknown = await app.predict(variant="ters")
            assert unknown.status_code == 404
            assert "did you mean 'terse'?" in unknown.json()["detail"]

    asyncio.run(play())


def test_under_request_randomisation_a_key_keeps_its_variant_and_its_absence_does_not(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            await split(app, randomize="request")
            for variant in ("base", "terse"):
                for key in units(variant):
                    assert (await app.predict(key=key, unit="ann")).json()["assigned_variant"] == variant
            met = {(await app.predict(unit="ann")).json()["assigned_variant"] for _ in range(30)}
            assert met == {"base", "terse"}

    asyncio.run(play())


def test_a_caller_that_hangs_up_changes_nothing(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url, lambda _model, _prompt: Reply(chat(category="bug"), seconds=0.3)) as app:
            waiting = asyncio.create_task(app.predict("hello"))
            await asyncio.sleep(0.1)
            now = app.ratchet.now()
            assert app.ratchet.traffic.horizon(now) < now
            waiting.cancel()
            await app.ratchet.traffic.drained()
            page = await app.ratchet.store.read(prediction_page, "triage")
            assert [found.prediction.status for found in page.items] == ["ok"]
            assert app.ratchet.traffic.horizon(now) == now

    asyncio.run(play())


def test_what_is_under_way_is_finished_before_the_application_closes(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url, lambda _model, _prompt: Reply(chat(category="bug"), seconds=0.3)) as app:
            waiting = asyncio.create_task(app.predict("hello"))
            await asyncio.sleep(0.1)
            waiting.cancel()
        async with application(sqlite_url) as app:
            page = await app.ratchet.store.read(prediction_page, "triage")
            assert [found.prediction.status for found in page.items] == ["ok"]

    asyncio.run(play())


def test_a_model_that_is_full_refuses_before_anything_is_spent(sqlite_url: str) -> None:
    narrow = DEFINITIONS.replace("num_retries: 0", "num_retries: 0, max_concurrency: 1")

    async def play() -> None:
        slow = Reply(chat(category="bug"), seconds=0.3)
        async with application(sqlite_url, lambda _model, _prompt: slow, definitions=narrow) as app:
            first = asyncio.create_task(app.predict("one"))
            await asyncio.sleep(0.1)
            refused = await app.predict("two")
            assert (refused.status_code, refused.json()["type"]) == (503, "busy")
            assert int(refused.headers["retry-after"]) >= 1
            assert (await first).status_code == 200
            assert len((await app.ratchet.store.read(prediction_page, "triage")).items) == 1

    asyncio.run(play())


def test_a_batch_answers_every_item_in_order_with_its_answer_or_problem(database_url: str) -> None:
    def script(_model: str, prompt: str) -> Any:
        return ServerError("down") if "break" in prompt else chat(category="bug")

    async def play() -> None:
        async with application(database_url, script) as app:
            items: list[Any] = [
                {"input": {"ticket": "fine"}},
                {"input": {}},
                {"input": {"ticket": "break"}},
                {"inputs": 1},
                7,
                {"input": {"ticket": "fine"}, "unit": "ann"},
            ]
            for headers in ({}, {"Idempotency-Key": "once"}):
                answer = await app.http.post(
                    "/v1/programs/triage/predict/batch", json={"items": items}, headers=headers
                )
                assert answer.status_code == 200, answer.text
                results = answer.json()["results"]
                assert [result.get("type") for result in results] == [
                    None,
                    "invalid",
                    "lm-failed",
                    "invalid",
                    "invalid",
                    None,
                ]
                assert results[1]["errors"][0]["pointer"] == "/input/ticket"
                recorded = [r["prediction_id"] for r in results if "prediction_id" in r]
                assert len(recorded) == 3
                for prediction_id in recorded:
                    await stored(app, prediction_id)

    asyncio.run(play())


def test_a_batch_is_bounded(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            for count in (0, 257):
                body = {"items": [{"input": {"ticket": "x"}}] * count}
                answer = await app.http.post("/v1/programs/triage/predict/batch", json=body)
                assert answer.status_code == 400
                assert answer.json()["errors"][0]["pointer"] == "/items"

    asyncio.run(play())
