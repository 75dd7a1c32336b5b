"""Two servers on one PostgreSQL: they agree on everything, and one goes on alone when the other is killed."""

import json
from pathlib import Path
from typing import Any

from tests.e2e.desk import GOOD, POOR, Desk, until
from tests.servers import RunningServer

DEFINITIONS = f"""
programs:
  triage:
    signature: "ticket: str -> category: Literal['billing', 'bug', 'how-to', 'other']"
    instructions: {json.dumps(POOR)}
    lm: {{model: sim/triage, options: {{noise: 0}}}}
    timeout: 1s
    metrics:
      correct: {{kind: exact_match, field: category, role: goal, expected: all}}
    experiments:
      {{ramp: [], split: {{champion: 0.5, challenger: 0.5}}, min_units: 40, min_duration: 0, outcome_window: 2s, block:
      1s}}
"""


def test_replicas_agree_and_one_decides_when_the_other_is_killed(tmp_path: Path, postgres_url: str) -> None:
    definitions = tmp_path / "ratchet.yaml"
    definitions.write_text(DEFINITIONS)
    at = {"RATCHET_DATABASE_URL": postgres_url, "RATCHET_TICK": "500ms"}
    with (
        RunningServer(tmp_path / "one", verb="serve", config=definitions, environment=at) as one,
        RunningServer(tmp_path / "two", verb="serve", config=definitions, environment=at) as two,
        RunningServer(tmp_path / "three", verb="work", environment=at),
    ):
        with one.client() as http:
            http.post("/v1/programs/triage/variants", json={"name": "better", "instructions": GOOD})
        made = one.command("experiments", "create", "triage", "better", "--start", "--json")
        identity = json.loads(made.stdout)["experiment_id"]
        until(lambda: running(two) == identity, seconds=5)

        def balanced() -> str:
            return (one if one.process.is_alive() else two).url

        with Desk(balanced, "triage") as desk, Desk(lambda: two.url, "triage") as other:
            assert arms(desk.serve(10**5, 50)) == arms(other.serve(10**5, 50))
            until(lambda: desk.served["better"] > 100)
            one.kill()
            until(lambda: champion(two) == "better", seconds=90)
        replayed = two.command("replay", identity, "--json")
        assert replayed.returncode == 0, replayed.stdout
        assert two.stop() == 0


def arms(answers: list[dict[str, Any]]) -> list[str]:
    return [answer["assigned_variant"] for answer in answers]


def running(server: RunningServer) -> str | None:
    with server.client() as http:
        found: str | None = http.get("/v1/programs/triage").json()["experiment_id"]
    return found


def champion(server: RunningServer) -> str:
    with server.client() as http:
        return str(http.get("/v1/programs/triage").json()["champion"])
