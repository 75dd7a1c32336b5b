"""Drift over HTTP: what is said of a program before, during and after an alarm."""

import asyncio
from typing import Any

from server.loop.drifting import drift
from server.trials.lifecycle import freeze
from tests.application import DEFINITIONS, Application, Clock, application

WATCHED = DEFINITIONS + "    drift: {min_outcomes: 30, maturity: 1h}\n"
HOUR = 3600 * 10**6


async def judged(app: Application, right: int, wrong: int, clock: Clock) -> None:
    """So many predictions with their labels, matured and taken in; the model always says `bug`."""
    for label, count in (("bug", right), ("billing", wrong)):
        for first in range(0, count, 200):
            items = [{"input": {"ticket": "It crashed"}}] * min(200, count - first)
            answers = (await app.http.post("/v1/programs/triage/predict/batch", json={"items": items})).json()
            ids = [answer["prediction_id"] for answer in answers["results"]]
            await app.report(*({"prediction_id": one, "label": {"category": label}} for one in ids))
    clock.ahead += 2 * HOUR
    await drift(app.ratchet)


async def told(app: Application) -> dict[str, Any]:
    answer = await app.http.get("/v1/programs/triage/drift")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    program = (await app.http.get("/v1/programs/triage")).json()
    listed = (await app.http.get("/v1/programs")).json()["items"]
    at_a_glance = (await app.http.get("/v1/status")).json()["programs"]
    assert [each["drift"]["status"] for each in (program, *listed)] == [found["status"]] * 2
    assert [each["drift"] for each in at_a_glance] == [found["status"]]
    return found


def of(found: dict[str, Any], signal: str) -> dict[str, Any]:
    [one] = [each for each in found["signals"] if each["signal"] == signal]
    assert isinstance(one, dict)
    return one


def test_a_program_is_watched_from_its_first_matured_prediction_on(database_url: str) -> None:
    async def play() -> None:
        clock = Clock()
        async with application(database_url, definitions=WATCHED, now=clock) as app:
            begun = await told(app)
            assert (begun["status"], begun["signals"], begun["alarms"]) == ("warming", [], [])
            await judged(app, 20, 0, clock)
            early = await told(app)
            assert early["status"] == "warming"
            score = of(early, "score")
            assert (score["variant"], score["outcomes"], score["status"]) == ("base", 20, "warming")
            await judged(app, 20, 0, clock)
            assert (await told(app))["status"] == "ok"
            assert early["judged_until"] < (await told(app))["judged_until"]

    asyncio.run(play())


def test_an_alarm_is_told_with_its_change_point_and_can_be_lived_with(sqlite_url: str) -> None:
    async def play() -> None:
        clock = Clock()
        async with application(sqlite_url, definitions=WATCHED, now=clock) as app:
            refused = await app.http.post("/v1/programs/triage/drift/acknowledge", json={"reason": "why not"})
            assert (refused.status_code, refused.json()["detail"]) == (
                409,
                "program 'triage' has no open alarm and no lasting fall: there is nothing to acknowledge",
            )
            await judged(app, 300, 0, clock)
            await freeze(app.ratchet, "a holiday", None)
            await judged(app, 0, 100, clock)
            found = await told(app)
            score = of(found, "score")
            assert (found["status"], score["status"], score["evidence_ratio"] >= 1) == ("alarm", "alarm", True)
            [alarm] = found["alarms"]
            assert (alarm["variant"], alarm["signal"], alarm["closed_at"]) == ("base", "score", None)
            assert score["change_point"] == alarm["change_point"] <= alarm["raised_at"] < alarm["noticed_at"]

            done = await app.http.post("/v1/programs/triage/drift/acknowledge", json={"reason": "a new product"})
            assert done.json()["alarms"][0]["closed_by"] == "an operator: a new product"
            await judged(app, 0, 100, clock)
            after = await told(app)
            assert after["status"] == "ok"
            assert of(after, "score")["floor"] > 0.5
            assert len(after["alarms"]) == 1

    asyncio.run(play())


def test_who_asks_for_an_unknown_program_is_told_the_nearest(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url, definitions=WATCHED) as app:
            unknown = await app.http.get("/v1/programs/triag/drift")
            assert unknown.status_code == 404
            assert "did you mean 'triage'?" in unknown.json()["detail"]

    asyncio.run(play())
