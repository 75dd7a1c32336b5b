"""Bad input: a problem that names the field, nothing half-written, never a 500."""

import asyncio
import json
from typing import Any

import pytest

from server.store.facts import prediction_page
from server.traffic import Program
from tests.application import Application, application

PREDICT = "/v1/programs/triage/predict"
JSON = {"Content-Type": "application/json"}
DEEP = 100_000


async def refused(
    app: Application, body: bytes | str, *, path: str = PREDICT, status: int = 400, pointer: str | None = None
) -> dict[str, Any]:
    """The problem that this body is answered with; nothing was recorded."""
    answer = await app.http.post(path, content=body, headers=JSON)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "errors", "request_id"}
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    if pointer is not None:
        assert pointer in [error["pointer"] for error in problem["errors"]], problem
    assert (await app.ratchet.store.read(prediction_page, "triage")).items == []
    return problem


@pytest.mark.parametrize(("body", "pointer"), [
    ("", ""),
    ("{", ""),
    ("[]", ""),
    ("null", ""),
    ('{"input": {"ticket": "x"}', ""),
    (b'{"input": {"ticket": "\xff"}}', ""),
    ('{"input": {"ticket": "x"}, "unit": "\\ud800"}', "/unit"),
    ("{}", "/input"),
    ('{"input": "x"}', "/input"),
    ('{"input": {"ticket": "x"}, "unti": "ann"}', "/unti"),
    ('{"input": {"ticket": "x"}, "unit": 7}', "/unit"),
    ('{"input": {"ticket": "x"}, "unit": ""}', "/unit"),
    (json.dumps({"input": {"ticket": "x"}, "unit": "u" * 257}), "/unit"),
    (json.dumps({"input": {"ticket": "x"}, "variant": "v" * 257}), "/variant"),
    ('{"input": {"ticket": "x"}, "unit": "a\\u0000b"}', "/unit"),
    ('{"input": {"ticket": "a\\u0000b"}}', "/input/ticket"),
    ('{"input": {"ticket": "x"}, "metadata": {"a": ["\\u0000"]}}', "/metadata/a/0"),
    ('{"input": {"ticket": "x"}, "metadata": 7}', "/metadata"),
    ('{"input": {"ticket": "x"}, "metadata": {"big": 9223372036854775808}}', "/metadata/big"),
    ('{"input": {"ticket": "x"}, "metadata": {"big": 1e999}}', "/metadata"),
    ('{"input": {"ticket": "x"}, "metadata": {"none": NaN}}', "/metadata/none"),
    ('{"input": {}}', "/input/ticket"),
    ('{"input": {"ticket": null}}', "/input/ticket"),
    ('{"input": {"ticket": 9223372036854775808}}', "/input/ticket"),
    ('{"input": {"ticket": ["x"]}}', "/input/ticket"),
    ('{"input": {"ticket": "x", "tickets": "y"}}', "/input/tickets"),
])  # fmt: skip
def test_a_bad_body_is_refused_by_the_name_of_the_field(sqlite_url: str, body: bytes | str, pointer: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            problem = await refused(app, body, pointer=pointer)
            assert problem["type"] == "invalid"

    asyncio.run(play())


@pytest.mark.parametrize("deep", ["[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP])
@pytest.mark.parametrize("place", ['{{"input": {}}}', '{{"input": {{"ticket": "x"}}, "metadata": {{"m": {}}}}}', "{}"])
def test_deep_nesting_is_refused(sqlite_url: str, deep: str, place: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            for shape in (deep, deep[: len(deep) // 2]):
                await refused(app, place.format(shape))
            await refused(app, place.format(deep), path="/v1/outcomes")
            await refused(app, f'{{"outcomes": [{deep}]}}', path="/v1/outcomes")

    asyncio.run(play())


def test_nesting_as_deep_as_any_decoder_takes_is_refused(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            for depth in (40, 200, 400, 600, 800, 900, 950, 990):
                shape = "[" * depth + "]" * depth
                await refused(app, f'{{"input": {{"ticket": "x"}}, "metadata": {{"m": {shape}}}}}')
                await refused(app, f'{{"input": {{"ticket": "x"}}, "metadata": {{"m": {shape}, "n": "\\u0000"}}}}')
                await refused(app, f'{{"input": {{"ticket": {shape}}}}}')

    asyncio.run(play())


def test_a_huge_body_is_refused(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            await refused(app, json.dumps({"input": {"ticket": "x" * 11_000_000}}), status=413)

    asyncio.run(play())


def test_an_unknown_name_suggests_the_nearest_one(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            body = '{"input": {"ticket": "x"}}'
            problem = await refused(app, body, path="/v1/programs/triag/predict", status=404)
            assert problem["type"] == "not-found"
            assert "did you mean 'triage'?" in problem["detail"]
            await refused(app, body, path=f"/v1/programs/{'p' * 300}/predict")
            await refused(app, body, path="/v1/programs/a%00b/predict")

    asyncio.run(play())


def test_every_refusal_of_the_framework_is_a_problem_too(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            for method, path, status in (("GET", "/nope", 404), ("GET", PREDICT, 405), ("DELETE", "/v1/outcomes", 405)):
                answer = await app.http.request(method, path)
                assert (answer.status_code, answer.json()["status"]) == (status, status)
                assert answer.headers["content-type"] == "application/problem+json"
            unknown = await app.http.post(f"{PREDICT}?dry=1", json={"input": {"ticket": "x"}})
            assert (unknown.status_code, unknown.json()["errors"][0]["pointer"]) == (400, "/query/dry")

    asyncio.run(play())


def test_what_nobody_foresaw_is_a_500_that_tells_nothing(sqlite_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(name: str) -> Program:
        raise ZeroDivisionError(f"division by zero in {name}")

    async def play() -> None:
        async with application(sqlite_url) as app:
            app.ratchet.traffic.program = broken  # type: ignore[method-assign]  # the fault, put where it would occur
            answer = await app.http.post("/v1/programs/secret/predict", json={"input": {"ticket": "x"}})
            assert (answer.status_code, answer.json()["type"]) == (500, "internal")
            assert "division" not in answer.text
            assert answer.json()["request_id"] in capsys.readouterr().err

    asyncio.run(play())


def test_a_callers_request_id_is_kept_if_it_is_sane(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            kept = await app.http.get("/health/live", headers={"X-Request-ID": "mine-1"})
            assert kept.headers["x-request-id"] == "mine-1"
            made = await app.http.get("/health/live", headers={"X-Request-ID": "<script>"})
            assert len(made.headers["x-request-id"]) == 36

    asyncio.run(play())
