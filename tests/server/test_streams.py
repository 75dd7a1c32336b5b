"""Following what changes, over a socket."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def _messages(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, str]]]:
    fields: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif not line and fields:
            yield fields["event"], json.loads(fields["data"])
            fields = {}
