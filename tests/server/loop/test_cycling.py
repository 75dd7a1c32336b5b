"""The learn tick: who asks for a recompile, once, and what is said about why there is none."""

from typing import Any

import pytest

from experiments.quantities import SECOND
from monitoring.signals import Reading, Signal
from server.loop.cycling import RETRY, learn
from server.store import compiles
from server.store.drifts import AlarmRaised, raise_alarm
from tests.application import Application, Clock, application
from tests.server.loop.feedback import PROGRAM, labelled

pytestmark = pytest.mark.anyio

HOUR = 3600 * SECOND


def when(asks: str, **learning: str) -> str:
    """The definitions, with `learning.on` and more."""
    more = "".join(f"      {key}: {value}\n" for key, value in {"on": asks, **learning}.items())
    return PROGRAM.replace("    learning:\n", "    learning:\n" + more)


async def runs(app: Application) -> list[dict[str, Any]]:
    return list((await app.http.get("/v1/compiles")).json()["items"])


async def said(app: Application) -> str:
    """What is told of the program's learning."""
    (program,) = (await app.http.get("/v1/status")).json()["programs"]
    return str(program["learning"])


async def alarm(app: Application, signal: Signal = "score", *, change: int | None = None) -> int:
    """An alarm about the champion, raised now; returns when."""
    now = app.ratchet.now()
    reading = Reading(
        variant="base",
        signal=signal,
        status="alarm",
        evidence_ratio=1.0,
        score=0.4,
        baseline=0.8,
        null_score=0.78,
        outcomes=500,
        change_point=change,
        alarm_at=now,
    )
    raised = AlarmRaised(
        program="triage",
        variant="base",
        signal=signal,
        raised_at=now,
        change_point=change or now - HOUR,
        noticed_at=now,
        reading=reading,
    )
    assert await app.ratchet.store.write(raise_alarm, raised)
    return now


async def test_a_drift_alarm_asks_for_one_run_on_what_came_after_the_change(database_url: str) -> None:
    async with application(database_url, definitions=when("[drift]"), embedded=False) as app:
        await labelled(app.ratchet.store, 240)
        await learn(app.ratchet)
        assert await runs(app) == []
        assert "no drift alarm" in await said(app)
        raised = await alarm(app)
        for _ in range(3):
            await learn(app.ratchet)
        (run,) = await runs(app)
        assert (run["state"], run["reason"], run["budget_usd"]) == ("queued", "drift", "1")
        kept = await app.ratchet.store.read(compiles.compile_run, run["compile_id"])
        assert (kept.alarm, kept.since, kept.actor) == (raised, raised - HOUR, None)
        assert kept.examples["holdout"] > 50
        assert kept.quality["considered"] == 240
        assert "has answered the drift alarm" in await said(app)
        await app.http.post(f"/v1/compiles/{run['compile_id']}/cancel")
        await learn(app.ratchet)
        assert len(await runs(app)) == 1, "one alarm asks for one run"
        assert run["compile_id"] in await said(app)


async def test_nothing_is_asked_for_while_there_is_too_little_or_acts_are_frozen(sqlite_url: str) -> None:
    async with application(sqlite_url, definitions=when("[drift]"), embedded=False) as app:
        await labelled(app.ratchet.store, 60)
        await alarm(app)
        await learn(app.ratchet)
        assert "60 of 100 fresh labels" in await said(app)
        await labelled(app.ratchet.store, 200, first=60)
        await app.http.post("/v1/freeze", json={"reason": "because"})
        await learn(app.ratchet)
        assert "frozen" in await said(app)
        assert await runs(app) == []
        assert (await app.http.post("/v1/programs/triage/compiles", json={})).status_code == 202, "a person may"


async def test_labels_of_another_share_of_predictions_are_not_learned_from(sqlite_url: str) -> None:
    async with application(sqlite_url, definitions=when("[drift]"), embedded=False) as app:
        await labelled(app.ratchet.store, 240)
        await alarm(app)
        await alarm(app, "label_share")
        await learn(app.ratchet)
        assert await runs(app) == []
        assert "share of predictions" in await said(app)


async def test_a_schedule_asks_once_for_every_time_it_is_due(sqlite_url: str) -> None:
    clock = Clock()
    definitions = when("[schedule]", schedule='"0 * * * *"', cooldown="0s", min_fresh_labels="50")
    async with application(sqlite_url, definitions=definitions, embedded=False, now=clock) as app:
        await labelled(app.ratchet.store, 240)
        await learn(app.ratchet)
        assert await runs(app) == []
        assert "not due" in await said(app)
        for asked in (1, 2):
            clock.ahead += HOUR
            if asked == 2:
                await labelled(app.ratchet.store, 100, first=1_000, late=clock.ahead)
            for _ in range(2):
                await learn(app.ratchet)
            newest, *older = await runs(app)
            assert (newest["reason"], len(older)) == ("schedule", asked - 1)
            await app.http.post(f"/v1/compiles/{newest['compile_id']}/cancel")
            await learn(app.ratchet)
            assert len(await runs(app)) == asked


async def test_a_run_that_could_not_succeed_is_told_and_not_prepared_again_at_once(sqlite_url: str) -> None:
    clock = Clock()
    definitions = when("[drift]").replace("max_metric_calls: 420", "max_metric_calls: 20")
    async with application(sqlite_url, definitions=definitions, embedded=False, now=clock) as app:
        await labelled(app.ratchet.store, 240)
        await alarm(app)
        await learn(app.ratchet)
        first = await said(app)
        assert "max_metric_calls is 20" in first
        await labelled(app.ratchet.store, 240, first=240)
        await learn(app.ratchet)
        assert await said(app) == first, "all there is to learn was read again"
        clock.ahead += RETRY
        await learn(app.ratchet)
        assert await said(app) != first
        assert await runs(app) == []
