"""Outcomes through the real application: every item judged by itself, the same one again changing nothing."""

import asyncio
from typing import Any

import pytest
from dspy.lm15 import ServerError

from experiments.quantities import SECOND
from server.store.facts import Reported, example
from tests.application import Application, Clock, application


async def prediction(app: Application) -> str:
    return str((await app.predict()).json()["prediction_id"])


async def statuses(app: Application, *outcomes: Any) -> list[str]:
    return [result["status"] for result in await app.report(*outcomes)]


async def reported(app: Application, prediction_id: str) -> list[Reported]:
    found = await app.ratchet.store.read(example, prediction_id)
    assert found is not None
    return found.outcomes


def test_an_outcome_is_taken_right_after_its_prediction(database_url: str) -> None:
    async def play() -> None:
        async with application(database_url) as app:
            for _ in range(20):
                assert await statuses(app, {"prediction_id": await prediction(app), "label": {"category": "bug"}}) == [
                    "accepted"
                ]

    asyncio.run(play())


def test_the_same_again_is_a_duplicate_and_another_is_a_conflict_and_is_not_used(database_url: str) -> None:
    async def play() -> None:
        async with application(database_url) as app:
            ids = [await prediction(app) for _ in range(3)]
            said: list[tuple[dict[str, Any], dict[str, Any]]] = [
                ({"label": {"category": "bug"}}, {"label": {"category": "other"}}),
                ({"metric": "rating", "value": 4}, {"metric": "rating", "value": 5}),
                ({"metric": "solved", "value": True}, {"metric": "solved", "value": False}),
            ]
            for about, (first, other) in zip(ids, said, strict=True):
                for item, expected in ((first, "accepted"), (first, "duplicate"), (other, "conflict")):
                    assert await statuses(app, {"prediction_id": about, **item}) == [expected]
                by_judge = {"prediction_id": about, "source": "judge", **other}
                assert await statuses(app, by_judge, by_judge) == ["accepted", "duplicate"]
            kept = {(one.metric, one.value, one.source, one.status) for one in await reported(app, ids[1])}
            assert kept == {
                ("rating", 4.0, "human", "accepted"),
                ("rating", 5.0, "human", "conflict"),
                ("rating", 5.0, "judge", "accepted"),
            }

    asyncio.run(play())


@pytest.mark.parametrize(("label", "value"), [("bug", 1.0), ("billing", 0.0)])
def test_a_label_is_scored_against_what_was_served(sqlite_url: str, label: str, value: float) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            about = await prediction(app)
            await app.report({"prediction_id": about, "label": {"category": label}})
            assert [(one.metric, one.value) for one in await reported(app, about)] == [("correct", value)]

    asyncio.run(play())


def test_a_label_for_a_prediction_nobody_answered_has_the_worst_score(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url, lambda _model, _prompt: ServerError("down")) as app:
            about = await prediction(app)
            assert await statuses(app, {"prediction_id": about, "label": {"category": "bug"}}) == ["accepted"]
            assert [one.value for one in await reported(app, about)] == [0.0]

    asyncio.run(play())


def test_past_the_window_an_outcome_is_late_unless_it_is_known_already(sqlite_url: str) -> None:
    async def play() -> None:
        now = Clock()
        async with application(sqlite_url, now=now) as app:
            early, late = await prediction(app), await prediction(app)
            label = {"label": {"category": "bug"}}
            assert await statuses(app, {"prediction_id": early, **label}) == ["accepted"]
            now.ahead = 24 * 3600 * SECOND + SECOND
            assert await statuses(app, {"prediction_id": early, **label}, {"prediction_id": late, **label}) == [
                "duplicate",
                "late",
            ]
            assert await statuses(app, {"prediction_id": early, "label": {"category": "other"}}) == ["conflict"]

    asyncio.run(play())


def test_a_comment_may_come_alone_or_beside_a_value_and_only_once(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            about = await prediction(app)
            comment = {"prediction_id": about, "comment": "too curt"}
            rated = {"prediction_id": about, "metric": "rating", "value": 2}
            assert await statuses(app, comment, comment, {**comment, "comment": "too long"}) == [
                "accepted",
                "duplicate",
                "accepted",
            ]
            assert await statuses(app, {**rated, "comment": "too curt"}) == ["accepted"]
            assert await statuses(app, rated, {**rated, "comment": "and late"}) == ["duplicate", "accepted"]
            assert await statuses(app, {**rated, "value": 3, "comment": "no"}) == ["conflict"]

    asyncio.run(play())


@pytest.mark.parametrize(("item", "named"), [
    ({"prediction_id": "nobody", "metric": "rating", "value": 1}, "/prediction_id"),
    ({"prediction_id": "x" * 300, "metric": "rating", "value": 1}, "/prediction_id"),
    ({"prediction_id": "\x00", "metric": "rating", "value": 1}, "/prediction_id"),
    ({"prediction_id": 7, "metric": "rating", "value": 1}, "/prediction_id"),
    ({"metric": "rating", "value": 1}, "/prediction_id"),
    ({"metric": "ratin", "value": 1}, "did you mean 'rating'?"),
    ({"metric": "rating", "value": 7}, "outside the range 1 to 5"),
    ({"metric": "rating", "value": "5"}, "/value"),
    ({"metric": "rating", "value": True}, "/value"),
    ({"metric": "rating"}, "/value"),
    ({"value": 1}, "/metric"),
    ({"metric": "solved", "value": 0.5}, "/value"),
    ({"metric": "revenue", "value": 0}, "above 0"),
    ({"metric": "latency", "value": 1}, "observed by the server"),
    ({"metric": "correct", "value": 1}, "label"),
    ({"label": {"categori": "bug"}}, "category"),
    ({"label": {"category": "cat"}}, "/label/category"),
    ({"label": {"category": 7}}, "/label/category"),
    ({"label": {}}, "/label"),
    ({"label": {"category": "bug"}, "metric": "rating", "value": 1}, "cannot come together"),
    ({"label": {"category": "bug"}, "value": 1}, "cannot come together"),
    ({"comment": ""}, "reports nothing"),
    ({}, "reports nothing"),
    ({"comment": "a\x00b"}, "NUL"),
    ({"comment": 7}, "/comment"),
    ({"comment": "x", "source": "oracle"}, "/source"),
    ({"comment": "x", "colour": "red"}, "/colour"),
    (["comment"], "object"),
])  # fmt: skip
def test_a_bad_item_is_rejected_with_its_reason_and_the_rest_stand(sqlite_url: str, item: Any, named: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            about = await prediction(app)
            bad = {"prediction_id": about, **item} if isinstance(item, dict) and named != "/prediction_id" else item
            good = {"prediction_id": about, "metric": "rating", "value": 4}
            rejected, accepted = await app.report(bad, good)
            assert (rejected["status"], accepted["status"]) == ("rejected", "accepted")
            assert named in rejected["detail"]
            assert [one.value for one in await reported(app, about)] == [4.0]

    asyncio.run(play())


def test_numbers_that_are_none_are_rejected(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            about = await prediction(app)
            for written in ("NaN", "Infinity", "-Infinity", "1e999", "9223372036854775808", "-1e300"):
                good = f'{{"prediction_id": "{about}", "metric": "solved", "value": true, "source": "judge"}}'
                bad = f'{{"prediction_id": "{about}", "metric": "rating", "value": {written}}}'
                answer = await app.http.post(
                    "/v1/outcomes",
                    content=f'{{"outcomes": [{bad}, {good}]}}',
                    headers={"Content-Type": "application/json"},
                )
                # What is no JSON is refused as a whole, what is a number is an item of its own.
                if answer.status_code == 200:
                    assert answer.json()["results"][0]["status"] == "rejected"
                else:
                    assert answer.status_code == 400
            assert all(one.metric == "solved" for one in await reported(app, about))

    asyncio.run(play())


def test_a_thousand_outcomes_are_one_request_and_more_are_refused(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            ids = [await prediction(app) for _ in range(10)]
            many = [{"prediction_id": about, "comment": f"number {at}"} for about in ids for at in range(100)]
            assert await statuses(app, *many) == ["accepted"] * 1000
            answer = await app.http.post("/v1/outcomes", json={"outcomes": [*many, many[0]]})
            assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (400, "/outcomes")

    asyncio.run(play())


def test_no_outcomes_are_no_trouble(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            assert await app.report() == []

    asyncio.run(play())
