"""Tokens per prediction as a metric, through the real application: from what a model reports to a verdict."""

import asyncio
from typing import Any

import pytest

from experiments.quantities import SECOND
from server.store.facts import example
from server.trials.lifecycle import replayed
from server.trials.ticking import tick
from tests.application import DEFINITIONS, Application, Clock, application
from tests.scripted_lm import Reply, Script, chat

BUG = chat(category="bug")
SETTINGS = {"randomize": "request", "min_duration": 0, "outcome_window": 60, "block": 1, "holdback": 0}


def answering(output_tokens: int) -> Script:
    """A model that says the same to both variants, and for the challenger is billed so many tokens for it."""
    return lambda _model, prompt: Reply(BUG, output_tokens=output_tokens if "Be terse." in prompt else 100)


async def concluded(app: Application, clock: Clock, **wanted: Any) -> dict[str, Any]:
    """The experiment of `base` against `terse` after 260 predictions, every one of them labelled."""
    (await app.http.post("/v1/programs/triage/variants", json={"name": "terse", "instructions": "Be terse."}))
    split = {"base": 0.5, "terse": 0.5}
    body = {"program": "triage", "challengers": ["terse"], "split": split, **SETTINGS, **wanted}
    made = (await app.http.post("/v1/experiments", json=body)).raise_for_status().json()
    path = f"/v1/experiments/{made['experiment_id']}"
    (await app.http.post(f"{path}/start", json={"reason": "a test"})).raise_for_status()
    answers = [(await app.predict()).raise_for_status().json() for _ in range(260)]
    said = [{"prediction_id": answer["prediction_id"], "label": {"category": "bug"}} for answer in answers]
    await app.report(*said)
    clock.ahead += 70 * SECOND
    await tick(app.ratchet)
    fact = await app.ratchet.store.read(example, answers[0]["prediction_id"])
    assert fact is not None
    usage = answers[0]["usage"]
    assert fact.prediction.assigned_tokens == usage["input_tokens"] + usage["output_tokens"]
    assert (await replayed(app.ratchet, made["experiment_id"])).agrees
    found: dict[str, Any] = (await app.http.get(path)).json()
    return {**found, "report": (await app.http.get(f"{path}/report")).json()}


def test_a_variant_that_takes_fewer_tokens_is_promoted_for_it(database_url: str) -> None:
    async def play() -> None:
        clock = Clock()
        thrifty = DEFINITIONS.replace("role: goal, ", "") + "      tokens: {kind: tokens, role: goal}\n"
        async with application(database_url, answering(20), definitions=thrifty, now=clock) as app:
            found = await concluded(app, clock, min_effect=0.1)
            assert found["verdict"] == "promote", found
            champion, challenger = found["report"]["arms"]
            assert (champion["means"]["tokens"]["mean"], challenger["means"]["tokens"]["mean"]) == (200, 120)
            assert champion["matured"] == champion["assigned"], "nobody has to report it"
            (compared,) = found["report"]["comparisons"]
            assert (compared["metric"], compared["direction"]) == ("tokens", "lower")
            assert compared["estimate"] == pytest.approx(-0.4)

    asyncio.run(play())


def test_a_tokens_guardrail_takes_back_a_wordy_variant(sqlite_url: str) -> None:
    async def play() -> None:
        clock = Clock()
        guarded = DEFINITIONS + "      tokens: {kind: tokens, role: guardrail, margin: 10%}\n"
        async with application(sqlite_url, answering(400), definitions=guarded, now=clock) as app:
            found = await concluded(app, clock)
            assert found["verdict"] == "rollback", found
            assert "'terse' is worse on 'tokens'" in found["reason"]

    asyncio.run(play())


def test_tokens_that_a_model_did_not_report_are_unknown(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url, lambda *_: Reply(BUG, input_tokens=0, output_tokens=0)) as app:
            made = (await app.predict()).json()
            fact = await app.ratchet.store.read(example, made["prediction_id"])
            assert fact is not None
            assert fact.prediction.assigned_tokens is None

    asyncio.run(play())
