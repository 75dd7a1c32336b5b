"""What orchestrators and Prometheus see, in good days and without the database."""

import asyncio

from tests.application import application, until
from tests.postgres import Postgres
from tests.scripted_lm import chat


def test_a_process_with_everything_it_needs_is_ready(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            assert (await app.http.get("/health/live")).json() == {"status": "ok"}
            ready = await app.http.get("/health/ready")
            assert (ready.status_code, ready.json()["status"]) == (200, "ok")
            checks = {check["name"]: check["status"] for check in ready.json()["checks"]}
            assert checks == {"database": "ok", "journal": "ok", "definitions": "ok", "ticks": "ok"}

    asyncio.run(play())


def test_without_its_database_a_process_refuses_before_a_model_is_called_and_recovers(postgres: Postgres) -> None:
    url = postgres.create()
    asked = 0

    def script(_model: str, _prompt: str) -> str:
        nonlocal asked
        asked += 1
        return chat(category="bug")

    async def play() -> None:
        async with application(url, script) as app:
            assert (await app.predict()).status_code == 200
            await asyncio.to_thread(postgres.stop)
            try:
                await until(lambda: app.ratchet.store.journal.trouble is not None)
                refused = await app.predict()
                assert (refused.status_code, refused.json()["type"]) == (503, "unavailable")
                assert int(refused.headers["retry-after"]) >= 1
                ready = await app.http.get("/health/ready")
                assert (ready.status_code, ready.json()["status"]) == (503, "failing")
                assert int(ready.headers["Retry-After"]) > 0
                assert (await app.http.get("/health/live")).status_code == 200
                assert asked == 1
            finally:
                await asyncio.to_thread(postgres.start)
            await until(lambda: app.ratchet.store.journal.trouble is None)
            assert (await app.predict()).status_code == 200

    asyncio.run(play())
    postgres.drop(url)


def test_metrics_follow_what_happens(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            about = (await app.predict()).json()["prediction_id"]
            await app.report({"prediction_id": about, "label": {"category": "bug"}}, {"prediction_id": "nobody"})
            answer = await app.http.get("/metrics")
            assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            for line in (
                'ratchet_predictions_total{program="triage",status="ok",variant="base"} 1.0',
                'ratchet_prediction_duration_seconds_count{program="triage",variant="base"} 1.0',
                'ratchet_overhead_seconds_count{program="triage"} 1.0',
                'ratchet_llm_tokens_total{program="triage",type="input",variant="base"} 100.0',
                'ratchet_llm_cost_dollars_total{program="triage",variant="base"} 0.00012',
                'ratchet_outcomes_total{metric="correct",program="triage",status="accepted",variant="base"} 1.0',
                'ratchet_outcomes_total{metric="",program="",status="rejected",variant=""} 1.0',
                'ratchet_outcome_delay_seconds_count{program="triage"} 1.0',
                'ratchet_split_ratio{program="triage",variant="base"} 1.0',
            ):
                assert line in answer.text.splitlines()
            asked = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"}
            open_ = await app.http.get("/metrics", headers=asked)
            assert open_.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
            assert open_.text.endswith("# EOF\n")
            assert "ratchet_config_epoch 0.0" not in answer.text
            assert "_created" not in answer.text

    asyncio.run(play())
