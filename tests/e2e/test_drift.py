"""A real server notices by itself that the world has changed, says so, and can show that the rows bear it out."""

import json
from pathlib import Path
from typing import Any

import httpx

from learning.engines.triage import rulebook, ticket
from tests.e2e.desk import until
from tests.servers import RunningServer

DEFINITIONS = f"""
programs:
  triage:
    signature: "ticket: str -> category: Literal['billing', 'bug', 'how-to', 'other']"
    instructions: {json.dumps(rulebook())}
    lm: {{model: sim/triage, options: {{noise: 0}}}}
    timeout: 5s
    metrics:
      correct: {{kind: exact_match, field: category, role: goal}}
    experiments: {{outcome_window: 1s}}
    drift: {{min_outcomes: 50}}
"""


def test_a_changed_world_is_noticed_and_the_state_is_derived_again(tmp_path: Path) -> None:
    definitions = tmp_path / "ratchet.yaml"
    definitions.write_text(DEFINITIONS)
    with RunningServer(tmp_path / "data", config=definitions, environment={"RATCHET_TICK": "200ms"}) as server:
        with server.client() as http:
            judge(http, range(400), shift=0.0)
            until(lambda: seen(server) >= 400)
            assert drift(server)["status"] == "ok", drift(server)
            judge(http, range(400, 800), shift=1.0)
            found = until(lambda: drift(server) if drift(server)["status"] == "alarm" else None)
        [alarm] = [alarm for alarm in found["alarms"] if alarm["signal"] == "score"]
        assert alarm["score"] < alarm["baseline"]
        shown = server.command("drift").stdout
        assert "alarm" in shown
        assert "ratchet compile triage" in shown
        assert "alarm" in server.command("status").stdout
        replayed = server.command("drift", "triage", "--replay", "--json")
        assert (replayed.returncode, json.loads(replayed.stdout)["agrees"]) == (0, True)
        lived_with = server.command("drift", "triage", "--acknowledge", "the new catalogue is out")
        assert lived_with.returncode == 0
        assert "the new catalogue is out" in lived_with.stdout
        until(lambda: drift(server)["status"] != "alarm")


def judge(http: httpx.Client, numbers: range, shift: float) -> None:
    """Have these tickets answered, and say what they truly were."""
    tickets = [ticket(1, number, shift=shift) for number in numbers]
    for first in range(0, len(tickets), 200):
        some = tickets[first : first + 200]
        items = [{"input": {"ticket": written.text}} for written in some]
        answers = http.post("/v1/programs/triage/predict/batch", json={"items": items}).json()["results"]
        said = [
            {"prediction_id": answer["prediction_id"], "label": {"category": written.label}}
            for answer, written in zip(answers, some, strict=True)
        ]
        http.post("/v1/outcomes", json={"outcomes": said}).raise_for_status()


def drift(server: RunningServer) -> dict[str, Any]:
    with server.client() as http:
        found: dict[str, Any] = http.get("/v1/programs/triage/drift").json()
    return found


def seen(server: RunningServer) -> int:
    return sum(signal["outcomes"] for signal in drift(server)["signals"] if signal["signal"] == "score")
