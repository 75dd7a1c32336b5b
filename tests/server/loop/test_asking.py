"""Asking for a compile over HTTP: what it would take, why it is refused, and how a run is looked at."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from experiments.quantities import SECOND
from learning.compile_runs import Event, Progress
from server.store import compiles
from server.store.compiles import NumberedEvent
from tests.application import Application, application
from tests.server.loop.feedback import PROGRAM, labelled

pytestmark = pytest.mark.anyio

COMPILES = "/v1/programs/triage/compiles"


async def asked(app: Application, **body: Any) -> dict[str, Any]:
    answer = await app.http.post(COMPILES, json=body)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/compiles/{answer.json()['compile_id']}"
    return dict(answer.json())


async def refused(app: Application, **body: Any) -> str:
    """Why it is refused."""
    answer = await app.http.post(COMPILES, json=body)
    assert answer.status_code in (400, 409), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["detail"])


async def test_a_dry_run_says_what_it_would_take_and_does_nothing(database_url: str) -> None:
    async with application(database_url, definitions=PROGRAM, embedded=False) as app:
        await labelled(app.ratchet.store, 200)
        answer = await app.http.post(COMPILES, json={"dry_run": True})
        assert answer.status_code == 200
        told = answer.json()
        assert set(told) == {"student_calls", "reflection_calls", "cost_usd", "min_metric_calls"}
        assert told["student_calls"] > 420 > told["min_metric_calls"] > 50
        assert 0.05 < float(told["cost_usd"]) < 1
        assert (await app.http.get("/v1/compiles")).json() == {"items": [], "next_cursor": None}


async def test_a_run_is_asked_for_once_and_can_be_cancelled_while_it_waits(database_url: str) -> None:
    async with application(database_url, definitions=PROGRAM, embedded=False) as app:
        await labelled(app.ratchet.store, 200)
        run = await asked(app, optimizer="bootstrap_few_shot", budget_usd="0.5")
        assert (run["state"], run["reason"], run["budget_usd"]) == ("queued", "operator", "0.5")
        assert run["optimizer"] == "bootstrap_few_shot"
        assert run["examples"]["train"] > run["examples"]["val"] > 10 < run["examples"]["holdout"]
        assert run["warnings"] == []
        assert run["compile_id"] in await refused(app)
        path = f"/v1/compiles/{run['compile_id']}"
        assert (await app.http.get(path)).json() == run
        cancelled = (await app.http.post(f"{path}/cancel")).json()
        assert cancelled["state"] == "cancelled"
        again = await app.http.post(f"{path}/cancel")
        assert again.status_code == 409
        assert "was cancelled" in again.json()["detail"]
        second = await asked(app)
        listed = (await app.http.get("/v1/compiles", params={"program": "triage"})).json()
        assert [item["compile_id"] for item in listed["items"]] == [second["compile_id"], run["compile_id"]]
        queued = (await app.http.get("/v1/compiles", params={"state": "queued"})).json()
        assert [item["compile_id"] for item in queued["items"]] == [second["compile_id"]]


async def test_a_refusal_names_what_is_missing_and_the_cure(sqlite_url: str) -> None:
    async with application(sqlite_url, definitions=PROGRAM, embedded=False) as app:
        assert "0 to learn from" in await refused(app)
        await labelled(app.ratchet.store, 200)
        assert "at least about $0." in await refused(app, budget_usd="0.001")
        assert "above 0" in await refused(app, budget_usd=0)
        assert "not an amount in dollars" in await refused(app, budget_usd="much")
        assert "did you mean" in (await app.http.get("/v1/compiles", params={"state": "queue"})).json()["detail"]
        assert (await app.http.post("/v1/programs/triag/compiles", json={})).status_code == 404
        for path in ("", "/events"):
            assert (await app.http.get(f"/v1/compiles/nothing{path}")).status_code == 404
        assert (await app.http.post("/v1/compiles/nothing/cancel")).status_code == 404


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (
            "field: category, role: goal}\n      solved: {kind: boolean}",
            "field: category}\n      solved: {kind: boolean, role: goal}",
            "'boolean'",
        ),
        ("max_metric_calls: 420", "max_metric_calls: 20", "max_metric_calls is 20"),
    ],
)
async def test_a_definition_that_cannot_be_compiled_is_told_so(
    sqlite_url: str, before: str, after: str, reason: str
) -> None:
    assert before in PROGRAM
    async with application(sqlite_url, definitions=PROGRAM.replace(before, after), embedded=False) as app:
        await labelled(app.ratchet.store, 200)
        assert reason in await refused(app)


async def test_nothing_is_compiled_while_an_experiment_runs(sqlite_url: str) -> None:
    async with application(sqlite_url, definitions=PROGRAM, embedded=False) as app:
        await labelled(app.ratchet.store, 200)
        await app.http.post("/v1/programs/triage/variants", json={"name": "rival", "instructions": "Guess."})
        body = {"program": "triage", "challengers": ["rival"]}
        rival = (await app.http.post("/v1/experiments", json=body)).json()["experiment_id"]
        await app.http.post(f"/v1/experiments/{rival}/start", json={"reason": "first come"})
        assert f"experiment {rival} must end first" in await refused(app)
        assert (await app.http.post(COMPILES, json={"dry_run": True})).status_code == 200


async def test_a_budget_in_dollars_is_not_taken_where_a_price_is_unknown(sqlite_url: str) -> None:
    unpriced = PROGRAM.replace(", price: {input: 1.25, output: 10}", "").replace("      budget_usd: 1\n", "")
    async with application(sqlite_url, definitions=unpriced, embedded=False) as app:
        await labelled(app.ratchet.store, 200)
        assert "without a price: write learning.reflection_lm.price" in await refused(app, budget_usd="0.5")
        told = (await app.http.post(COMPILES, json={"dry_run": True})).json()
        assert told["cost_usd"] is None
        assert (await asked(app))["budget_usd"] is None


async def test_the_budget_of_the_month_bounds_the_run_and_then_refuses_it(sqlite_url: str) -> None:
    monthly = PROGRAM.replace("budget_usd: 1\n", "budget_usd: 1\n      monthly_budget_usd: 1.2\n")
    async with application(sqlite_url, definitions=monthly, embedded=False) as app:
        await labelled(app.ratchet.store, 200)
        assert (await asked(app))["budget_usd"] == "1"
        store = app.ratchet.store
        for spent, left in (("0.7", "0.5"), ("0.5", None)):
            claim = await store.write(compiles.claim_run, "a", 60 * SECOND, 0)
            assert claim is not None
            paid = int(float(spent) * 10**12)
            await store.write(compiles.finish_run, claim, replace(claim.run, state="failed", spent=paid, finished_at=1))
            if left is None:
                assert "the month's budget of $1.2" in await refused(app)
            else:
                assert (await asked(app))["budget_usd"] == left


async def test_the_events_of_a_run_are_told_from_where_the_listener_was(sqlite_url: str) -> None:
    async with application(sqlite_url, definitions=PROGRAM, embedded=False) as app:
        await labelled(app.ratchet.store, 200)
        run = await asked(app)
        store = app.ratchet.store
        claim = await store.write(compiles.claim_run, "a", 60 * SECOND, 0)
        assert claim is not None
        told = tuple(NumberedEvent(n, _event(n)) for n in range(1, 601))
        await store.write(compiles.renew_run, claim, 60 * SECOND, told)
        await store.write(compiles.finish_run, claim, replace(claim.run, state="rejected", error="no", finished_at=9))
        path = f"/v1/compiles/{run['compile_id']}/events"
        whole = await app.http.get(path)
        assert whole.headers["content-type"].startswith("text/event-stream")
        messages = _messages(whole.text)
        assert [message["id"] for message in messages[:-1]] == [str(n) for n in range(1, 601)]
        assert messages[-1]["event"] == "end"
        assert json.loads(messages[-1]["data"])["state"] == "rejected"
        assert json.loads(messages[0]["data"])["text"] == "line 1\nline 2"
        rest = _messages((await app.http.get(path, headers={"Last-Event-ID": "598"})).text)
        assert [message.get("id") for message in rest] == ["599", "600", None]
        assert (await app.http.get(path, headers={"Last-Event-ID": "x"})).status_code == 400


def _event(number: int) -> Event:
    return Event(
        kind="proposed", at=number, said="said", progress=Progress(iteration=number), spent=0, text="line 1\nline 2"
    )


def _messages(text: str) -> list[dict[str, str]]:
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
