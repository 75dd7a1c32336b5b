"""Idempotency-Key: one piece of work, one record, one answer, however often and however impatiently a caller asks."""

import asyncio
from typing import Any

import pytest
from dspy.lm15 import ServerError

from server.serving.idempotency import GRACE, hold
from server.store.facts import prediction_page
from server.wire.serving import PredictRequest
from tests.application import DEFINITIONS, Application, Clock, application
from tests.scripted_lm import Reply, chat


async def recorded(app: Application) -> int:
    return len((await app.ratchet.store.read(prediction_page, "triage")).items)


def test_the_same_request_again_gets_the_first_answer_and_another_body_is_refused(database_url: str) -> None:
    async def play() -> None:
        async with application(database_url) as app:
            first = await app.predict("hello", key="k1", unit="ann")
            again = await app.predict("hello", key="k1", unit="ann")
            assert (first.status_code, again.json()) == (200, first.json())
            other = await app.predict("goodbye", key="k1", unit="ann")
            assert (other.status_code, other.json()["type"]) == (422, "key-reused")
            assert (await app.predict("hello", key="k2", unit="ann")).json() != first.json()
            assert await recorded(app) == 2

    asyncio.run(play())


def test_requests_at_the_same_time_are_worked_on_once(database_url: str) -> None:
    async def play() -> None:
        async with application(database_url, lambda _model, _prompt: Reply(chat(category="bug"), seconds=0.2)) as app:
            answers = await asyncio.gather(*(app.predict("hello", key="k") for _ in range(10)))
            assert {answer.status_code for answer in answers} == {200}
            assert len({answer.json()["prediction_id"] for answer in answers}) == 1
            assert await recorded(app) == 1

    asyncio.run(play())


def test_a_failure_is_not_kept_and_the_next_try_is_a_new_one(sqlite_url: str) -> None:
    said: list[Any] = [ServerError("down"), chat(category="bug")]

    async def play() -> None:
        async with application(sqlite_url, lambda _model, _prompt: said.pop(0)) as app:
            assert (await app.predict("hello", key="k")).status_code == 502
            assert (await app.predict("hello", key="k")).status_code == 200
            assert await recorded(app) == 2

    asyncio.run(play())


def test_a_caller_that_gave_up_finds_the_answer_when_it_comes_back(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url, lambda _model, _prompt: Reply(chat(category="bug"), seconds=0.3)) as app:
            impatient = asyncio.create_task(app.predict("hello", key="k"))
            await asyncio.sleep(0.1)
            impatient.cancel()
            assert (await app.predict("hello", key="k")).status_code == 200
            assert await recorded(app) == 1

    asyncio.run(play())


def test_a_request_that_another_process_is_still_at_is_a_conflict_and_ends_with_its_lease(database_url: str) -> None:
    async def play() -> None:
        quick = DEFINITIONS.replace("timeout: 5s", "timeout: 300ms")
        now = Clock()
        async with application(database_url, definitions=quick, now=now) as app:
            asked = PredictRequest(input={"ticket": "hello"})
            await hold(app.ratchet, "triage", "k", asked, patience=300_000)
            waiting = await app.predict("hello", key="k")
            assert (waiting.status_code, waiting.json()["type"]) == (409, "conflict")
            now.ahead = GRACE + 300_000
            assert (await app.predict("hello", key="k")).status_code == 200

    asyncio.run(play())


def test_a_key_counts_within_its_program_and_is_checked(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            for key in ("", "x" * 257):
                answer = await app.predict("hello", key=key)
                assert answer.status_code == 400, answer.text
                assert "Idempotency-Key" in answer.json()["detail"]

    asyncio.run(play())


@pytest.mark.parametrize("broken", [False, True])
def test_a_batch_is_kept_as_a_whole_with_its_problems(database_url: str, broken: bool) -> None:
    async def play() -> None:
        async with application(database_url) as app:
            items: list[Any] = [{"input": {"ticket": "one"}}, {"input": {} if broken else {"ticket": "two"}}]
            send = {"json": {"items": items}, "headers": {"Idempotency-Key": "k"}}
            first = await app.http.post("/v1/programs/triage/predict/batch", **send)  # type: ignore[arg-type]
            again = await app.http.post("/v1/programs/triage/predict/batch", **send)  # type: ignore[arg-type]
            assert (first.status_code, again.json()) == (200, first.json())
            assert await recorded(app) == (1 if broken else 2)
            other = await app.http.post(
                "/v1/programs/triage/predict/batch", json={"items": items[:1]}, headers={"Idempotency-Key": "k"}
            )
            assert other.status_code == 422

    asyncio.run(play())
