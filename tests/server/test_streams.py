"""Following what changes, over a socket."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.streams import MOST
from tests.application import application
from tests.server.loop.feedback import PROGRAM, labelled
from tests.servers import DEFINITIONS, RunningServer


@pytest.mark.timeout(60)
def test_whoever_listens_hears_what_changed_by_kind_and_id(tmp_path: Path) -> None:
    definitions = tmp_path / "ratchet.yaml"
    definitions.write_text(DEFINITIONS)
    with RunningServer(tmp_path / "data", config=definitions) as server, server.client() as http:
        http.post("/v1/programs/triage/variants", json={"name": "terse", "instructions": "One word."})
        with server.client() as listening, listening.stream("GET", "/v1/events") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            told = _messages(response.iter_lines())
            assert next(told) == ("connected", {})
            made = http.post("/v1/experiments", json={"program": "triage", "challengers": ["terse"]}).json()
            name = made["experiment_id"]
            assert next(told) == ("experiment", {"kind": "experiment", "id": name})
            http.post(f"/v1/experiments/{name}/start", json={"reason": "to be heard"})
            heard = {next(told)[0] for _ in range(3)}
            assert heard == {"program", "experiment", "evidence"}
            assert server.stop() == 0


@pytest.mark.timeout(60)
def test_a_stream_ends_soon_after_its_key_was_revoked(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data") as server, server.client() as http:
        admin = http.post("/v1/keys", json={"name": "ann", "scopes": ["admin"]}).json()
        http.headers["Authorization"] = f"Bearer {admin['secret']}"
        made = http.post("/v1/keys", json={"name": "screen", "scopes": ["read"]}).json()
        with server.client() as listening:
            listening.headers["Authorization"] = f"Bearer {made['secret']}"
            with listening.stream("GET", "/v1/events") as response:
                lines = response.iter_lines()
                assert next(lines).startswith(":")
                http.post(f"/v1/keys/{made['key']['key_id']}/revoke").raise_for_status()
                assert [line for line in lines if line.startswith("event:")] == ["event: connected"]
            assert listening.get("/v1/events").status_code == 401


def test_more_streams_than_there_is_room_for_are_refused_and_one_that_ended_leaves_its_room(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url, definitions=PROGRAM, embedded=False) as app:
            await labelled(app.ratchet.store, 200)
            run = (await app.http.post("/v1/programs/triage/compiles", json={})).json()["compile_id"]
            await app.http.post(f"/v1/compiles/{run}/cancel")
            for _ in range(MOST + 1):
                assert "event: end" in (await app.http.get(f"/v1/compiles/{run}/events")).text
            app.state.streams = MOST
            for path in ("/v1/events", f"/v1/compiles/{run}/events"):
                refused = await app.http.get(path)
                assert (refused.status_code, refused.json()["type"]) == (503, "busy")
                assert int(refused.headers["retry-after"]) > 0

    asyncio.run(play())


def _messages(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, str]]]:
    fields: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif not line and fields:
            yield fields["event"], json.loads(fields["data"])
            fields = {}
