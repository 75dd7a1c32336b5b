"""Programs, variants, examples and figures over HTTP."""

import re
from typing import Any

import pytest

from tests.application import DEFINITIONS, Application, application

pytestmark = pytest.mark.anyio

VARIANTS = "/v1/programs/triage/variants"
TERSE = {"name": "terse", "instructions": "Answer with the category only."}
URGENCY = """
  urgency:
    signature: "ticket: str -> urgent: bool"
    lm: {model: sim/triage}
"""


async def test_a_program_tells_what_it_takes_what_it_gives_and_who_serves_it(database_url: str) -> None:
    async with application(database_url) as app:
        told = (await app.http.get("/v1/programs/triage")).raise_for_status().json()
    assert told["champion"] == "base"
    assert told["split"] == {"base": 1.0}
    assert told["experiment_id"] is None
    assert told["inputs"]["ticket"] == {"json_schema": {"type": "string"}, "description": "${ticket}", "required": True}
    assert told["outputs"]["category"]["json_schema"]["enum"] == ["billing", "bug", "how-to", "other"]
    assert told["metrics"]["rating"]["range"] == [1, 5]
    assert told["created_at"].endswith("Z")


async def test_an_unknown_program_is_told_with_the_nearest_name(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        for path in ("", "/variants", "/predictions", "/analytics"):
            answer = await app.http.get(f"/v1/programs/triag{path}")
            assert answer.status_code == 404, path
            assert "did you mean 'triage'?" in answer.json()["detail"], path


async def test_programs_are_listed_page_by_page(sqlite_url: str) -> None:
    async with application(sqlite_url, definitions=DEFINITIONS + URGENCY) as app:
        assert sorted(await names(app, "/v1/programs", limit=1)) == ["triage", "urgency"]


async def test_the_same_content_is_the_same_variant_and_a_taken_name_or_content_is_refused(database_url: str) -> None:
    async with application(database_url) as app:
        first = await app.http.post(VARIANTS, json=TERSE)
        again = await app.http.post(VARIANTS, json=TERSE)
        nameless = await app.http.post(VARIANTS, json={"instructions": TERSE["instructions"]})
        renamed = await app.http.post(VARIANTS, json={**TERSE, "name": "short"})
        changed = await app.http.post(VARIANTS, json={"name": "terse", "instructions": "Something else."})
    assert [answer.status_code for answer in (first, again, nameless, renamed, changed)] == [201, 200, 200, 409, 409]
    assert first.json() == again.json() == nameless.json()
    assert first.json()["parent"] == "base"
    assert first.json()["instructions"] == {"predict": "Answer with the category only."}
    assert "as 'terse'" in renamed.json()["detail"]


async def test_a_variant_without_a_name_is_called_by_its_hash(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        made = (await app.http.post(VARIANTS, json={"instructions": "Only the category."})).raise_for_status().json()
        assert made["name"] == f"v-{made['id'][:12]}"
        assert (await app.http.get(f"{VARIANTS}/{made['name']}")).json() == made


async def test_the_state_that_is_shown_can_be_sent_back(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        base = (await app.http.get(f"{VARIANTS}/base")).raise_for_status().json()
        base["state"]["predict"]["instructions"] = "Think of the customer."
        made = await app.http.post(VARIANTS, json={"name": "kind", "state": base["state"]})
        assert made.status_code == 201, made.text
        assert made.json()["state"] == base["state"]


async def test_two_variants_are_compared_line_by_line(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        (await app.http.post(VARIANTS, json={**TERSE, "lm": {"temperature": 0.5}})).raise_for_status()
        told = (await app.http.get(f"{VARIANTS}/base/diff/terse")).raise_for_status().json()
    (predictor,) = told["predictors"]
    assert "-Classify the support ticket." in predictor["instructions"]
    assert "+Answer with the category only." in predictor["instructions"]
    assert predictor["demos"] == ""
    assert re.search(r"^\+.*temperature.*0\.5", told["lm"], re.MULTILINE)


WRONG_VARIANTS: list[tuple[dict[str, Any], str]] = [
    ({"instruction": "x"}, "/instruction"),
    ({"name": "Not A Name"}, "/name"),
    ({"name": ""}, "/name"),
    ({"parent": "nobody"}, "/parent"),
    ({"instructions": 7}, "/instructions"),
    ({"state": {"predictor": {"instructions": "x", "demos": []}}}, "/state/predictor"),
    ({"state": "gASVAAAA"}, "/state"),
    ({"lm": {"modle": "x/y"}}, "/lm"),
]


async def test_a_wrong_variant_is_refused_at_its_field(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        for body, pointer in WRONG_VARIANTS:
            answer = await app.http.post(VARIANTS, json=body)
            assert answer.status_code == 400, answer.text
            assert any(fault["pointer"].startswith(pointer) for fault in answer.json()["errors"]), answer.text
        assert await names(app, VARIANTS) == ["base"]


async def test_a_variant_is_not_made_for_a_program_that_changed_since_it_was_read(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        tag = (await app.http.get("/v1/programs/triage")).headers["etag"]
        assert (await app.http.post(VARIANTS, json=TERSE, headers={"If-Match": tag})).status_code == 201
        drafted = await app.http.post("/v1/experiments", json={"program": "triage", "challengers": ["terse"]})
        path = f"/v1/experiments/{drafted.json()['experiment_id']}/promote"
        (await app.http.post(path, json={"reason": "by hand"})).raise_for_status()
        late = await app.http.post(VARIANTS, json={"instructions": "Late."}, headers={"If-Match": tag})
        assert late.status_code == 412, late.text


async def test_examples_are_browsed_by_variant_metric_value_and_time(database_url: str) -> None:
    async with application(database_url) as app:
        right, wrong, _ = [(await app.predict(unit=f"u{i}")).json()["prediction_id"] for i in range(3)]
        await app.report(
            {"prediction_id": right, "label": {"category": "bug"}},
            {"prediction_id": wrong, "label": {"category": "billing"}, "comment": "It asks for money back."},
        )
        everything = await page(app, "/v1/programs/triage/predictions")
        failing = await page(app, "/v1/programs/triage/predictions?metric=correct&value=0&variant=base")
        future = await page(app, "/v1/programs/triage/predictions?since=2999-01-01T00:00:00Z")
    assert len(everything) == 3
    assert future == []
    (example,) = failing
    assert example["prediction_id"] == wrong
    assert example["unit"] == "u1"
    assert example["input"] == {"ticket": "It crashed"}
    assert example["output"] == {"category": "bug"}
    assert example["cost_usd"] == "0.00012"
    assert example["calls"][0]["usage"] == {"input_tokens": 100, "output_tokens": 10}
    outcome, comment = sorted(example["outcomes"], key=lambda said: said["comment"] or "")
    assert (outcome["metric"], outcome["value"], outcome["status"]) == ("correct", 0, "accepted")
    assert outcome["label"] == {"category": "billing"}
    assert comment["comment"] == "It asks for money back."
    assert comment["metric"] is None


async def test_figures_per_variant_include_the_cost_of_a_right_answer(database_url: str) -> None:
    async with application(database_url) as app:
        for category in ("bug", "bug", "bug", "other"):
            made = (await app.predict()).json()
            await app.report({"prediction_id": made["prediction_id"], "label": {"category": category}})
        told = (await app.http.get("/v1/programs/triage/analytics?window=1h")).raise_for_status().json()
    (figures,) = told["variants"]
    assert told["window"] == 3600
    assert figures["predictions"] == 4
    assert figures["errors"] == figures["fallbacks"] == 0
    assert figures["scores"] == {"correct": {"n": 4, "mean": 0.75}}
    assert figures["cost_usd"] == "0.00048"
    assert figures["cost_per_prediction_usd"] == "0.00012"
    assert figures["cost_per_correct_usd"] == "0.00016"
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p99"]


WRONG_PARAMETERS = [
    ("predictions?metric=corect", "/query/metric"),
    ("predictions?value=nan", "/query/value"),
    ("predictions?value=many", "/query/value"),
    ("predictions?since=yesterday", "/query/since"),
    ("predictions?since=2026-01-01T00:00:00", "/query/since"),
    ("predictions?limit=501", "/query/limit"),
    ("predictions?limit=0", "/query/limit"),
    ("predictions?cursor=nonsense", "/cursor"),
    ("predictions?varaint=base", "/query/varaint"),
    ("predictions?variant=%00", "/query/variant"),
    ("analytics?window=a+week", "/query/window"),
    ("analytics?window=0", "/query/window"),
]


async def test_a_wrong_parameter_is_refused_by_its_name(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        for query, pointer in WRONG_PARAMETERS:
            answer = await app.http.get(f"/v1/programs/triage/{query}")
            assert answer.status_code == 400, answer.text
            assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


async def page(app: Application, path: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await app.http.get(path)).raise_for_status().json()["items"]
    return items


async def names(app: Application, path: str, limit: int = 50) -> list[str]:
    """All names of a list, read page by page."""
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        told = (await app.http.get(path, params={"limit": limit, **cursor})).raise_for_status().json()
        assert len(told["items"]) <= limit
        found += [item["name"] for item in told["items"]]
        if told["next_cursor"] is None:
            return found
        cursor = {"cursor": told["next_cursor"]}
