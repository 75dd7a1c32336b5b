"""An experiment by pairs on a real server with the simulated model, by HTTP and the command line only."""

import json
from pathlib import Path
from typing import Any

from tests.e2e.desk import GOOD, POOR, Desk, until
from tests.servers import RunningServer

PROGRAM = f"""
programs:
  triage:
    signature: "ticket: str -> category: Literal['billing', 'bug', 'how-to', 'other']"
    instructions: {json.dumps(POOR)}
    lm: {{model: sim/triage, options: {{noise: 0}}}}
    timeout: 2s
    metrics:
      correct: {{kind: exact_match, field: category, role: goal, expected: all}}
      failures: {{kind: error, role: guardrail, margin: 0.05}}
    experiments:
      {{pairs: true, split: {{champion: 0.5, challenger: 0.5}}, min_effect: 0.05, min_units: 40, min_duration: 0,
        outcome_window: 3s, block: 1s, holdback: 0}}
"""


def test_a_challenger_nobody_met_is_promoted_for_what_it_would_have_answered(tmp_path: Path) -> None:
    definitions = tmp_path / "ratchet.yaml"
    definitions.write_text(PROGRAM)
    with RunningServer(tmp_path / "data", config=definitions, environment={"RATCHET_TICK": "200ms"}) as server:
        with server.client() as http:
            made = http.post("/v1/programs/triage/variants", json={"name": "better", "instructions": GOOD})
            assert made.status_code == 201, made.text
        with Desk(lambda: server.url, "triage") as desk:
            identity = told(server, "experiments", "create", "triage", "better")["experiment_id"]
            told(server, "experiments", "start", identity, "-m", "a test")
            until(lambda: told(server, "experiments", "show", identity)["state"] == "concluded")
            served = dict(desk.served)
        with server.client() as http:
            found = http.get(f"/v1/experiments/{identity}").json()
            report = http.get(f"/v1/experiments/{identity}/report").json()
            assert http.get("/v1/programs/triage").json()["champion"] == "better"
        assert found["verdict"] == "promote", found
        assert served["base"] > 0
        champion, challenger = report["arms"]
        assert champion["units"] == challenger["units"] < 1000
        replayed = told(server, "replay", identity)
        assert (replayed["decisions"], replayed["differences"]) == (1, [])
        assert server.stop() == 0


def told(server: RunningServer, *arguments: str) -> Any:
    """What a verb answers as JSON."""
    done = server.command(*arguments, "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)
