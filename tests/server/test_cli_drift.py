"""`ratchet drift` against a real server: what it shows, and what it refuses."""

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from server.cli.main import ratchet
from tests.servers import RunningServer

Verb = Callable[..., Result]


@pytest.fixture
def verb(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Verb:
    """Runs one verb, the way somebody on the server's machine would."""
    monkeypatch.setenv("RATCHET_DATA", str(server.log.parent))
    return lambda *arguments: CliRunner().invoke(ratchet, ["drift", *arguments])


def test_it_shows_every_program_or_one(verb: Verb) -> None:
    everything = json.loads(verb("--json").stdout)["items"]
    assert [found["program"] for found in everything] == ["triage"]
    assert json.loads(verb("triage", "--json").stdout)["status"] == "warming"
    assert "triage  warming" in verb().stdout


def test_inputs_are_compared_on_request(verb: Verb, server: RunningServer) -> None:
    with server.client() as http:
        items = [{"input": {"ticket": f"{word} " * 3}} for word in ["refund"] * 128 + ["crash"] * 128]
        http.post("/v1/programs/triage/predict/batch", json={"items": items}).raise_for_status()
    found = json.loads(verb("triage", "--inputs", "--json").stdout)
    assert found["recent"]["predictions"] >= 128
    [field] = found["fields"]
    assert (field["field"], field["drifted"]) == ("ticket", True)
    shown = verb("triage", "--inputs").stdout
    assert "ticket" in shown
    assert "changed" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nobody"], 1, "no program is called 'nobody'"),
        (["--replay"], 2, "name the PROGRAM"),
        (["nobody", "--replay"], 1, "program 'nobody' is not watched yet"),
        (["triage", "--acknowledge", "fine"], 1, "program 'triage' has no open alarm"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(verb: Verb, arguments: list[str], code: int, said: str) -> None:
    refused = verb(*arguments)
    assert refused.exit_code == code
    assert said in refused.stderr
