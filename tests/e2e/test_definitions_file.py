"""The definitions file of a running server: followed as it changes, and never able to break what is in force."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.desk import until
from tests.servers import DEFINITIONS, RunningServer, command

SECOND_PROGRAM = """
  echo:
    signature: "text -> answer"
    lm: sim/triage
"""
BROKEN = DEFINITIONS.replace("kind: boolean", "kind: bolean")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ratchet.yaml"
    path.write_text(DEFINITIONS)
    return path


@pytest.fixture
def server(tmp_path: Path, file: Path) -> Iterator[RunningServer]:
    with RunningServer(tmp_path / "data", config=file) as server:
        yield server


def predict(http: httpx.Client, program: str, given: dict[str, str]) -> int:
    return http.post(f"/v1/programs/{program}/predict", json={"input": given}).status_code


def definitions_check(http: httpx.Client) -> Any:
    answer = http.get("/health/ready")
    assert answer.status_code == 200, "a bad file is no reason to stop serving"
    return next(check for check in answer.json()["checks"] if check["name"] == "definitions")


def test_a_broken_file_leaves_the_last_good_one_in_force_and_is_told(file: Path, server: RunningServer) -> None:
    with server.client() as http:
        file.write_text(BROKEN + SECOND_PROGRAM)
        until(lambda: "ratchet_config_last_reload_successful 0.0" in http.get("/metrics").text)
        found = definitions_check(http)
        assert found["status"] == "failing"
        assert "ratchet.yaml:10:22" in found["detail"]
        assert "boolean" in found["detail"]
        assert predict(http, "triage", {"ticket": "a refund"}) == 200
        assert predict(http, "echo", {"text": "hello"}) == 404

        file.write_text(DEFINITIONS + SECOND_PROGRAM)
        until(lambda: predict(http, "echo", {"text": "hello"}) == 200)
        until(lambda: "ratchet_config_last_reload_successful 1.0" in http.get("/metrics").text)
        assert definitions_check(http)["status"] == "ok"

        file.unlink()
        until(lambda: definitions_check(http)["status"] == "failing")
        assert predict(http, "echo", {"text": "hello"}) == 200


def test_a_server_starts_with_the_last_good_definitions_although_the_file_is_broken(
    file: Path, server: RunningServer, tmp_path: Path
) -> None:
    assert server.stop() == 0
    file.write_text(BROKEN)
    with RunningServer(tmp_path / "data", config=file) as again, again.client() as http:
        assert predict(http, "triage", {"ticket": "a refund"}) == 200
        assert definitions_check(http)["status"] == "failing"


def test_a_new_server_does_not_start_with_a_broken_file(file: Path, tmp_path: Path) -> None:
    file.write_text(BROKEN)
    done = command(
        "up", "--config", str(file), environment={"RATCHET_DATA": str(tmp_path / "new"), "RATCHET_PORT": "0"}
    )
    assert done.returncode == 1
    assert "ratchet.yaml:10:22" in done.stderr
    assert "Traceback" not in done.stderr
