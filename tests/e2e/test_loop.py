"""The whole loop on a real server, with no human call: the world changes, and the program is as good as before."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from learning.engines.triage import rulebook, ticket
from tests.servers import RunningServer

DEFINITIONS = f"""
programs:
  triage:
    signature: "ticket: str -> category: Literal['billing', 'bug', 'how-to', 'other']"
    instructions: {json.dumps(rulebook())}
    lm: {{model: sim/triage, options: {{seed: 3, noise: 0.02}}, price: {{input: 0.15, output: 0.60}}}}
    timeout: 5s
    metrics:
      correct: {{kind: exact_match, field: category, role: goal}}
    experiments:
      {{randomize: request, ramp: [], split: {{champion: 0.5, challenger: 0.5}}, min_units: 50, min_effect: 0.05,
      min_duration: 0, outcome_window: 1s, block: 1s, holdback: 0}}
    drift: {{min_outcomes: 100, maturity: 1s}}
    learning:
      on: [drift]
      optimizer: gepa
      reflection_lm: {{model: sim/triage, options: {{seed: 3}}, price: {{input: 1.25, output: 10}}}}
      min_fresh_labels: 300
      max_metric_calls: 900
      budget_usd: 1
      cooldown: 1s
"""
BATCH = 100
SHIFT = 0.8


class World:
    """Users whose tickets are answered and then judged."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self.shift = 0.0
        self.written = 0

    def share_right(self) -> float:
        """The share of right answers to another batch of tickets."""
        tickets = [ticket(5, self.written + number, shift=self.shift) for number in range(BATCH)]
        self.written += BATCH
        items = [{"input": {"ticket": each.text}} for each in tickets]
        answers = self._post("/v1/programs/triage/predict/batch", {"items": items})["results"]
        said = [
            {"prediction_id": answer["prediction_id"], "label": {"category": each.label}}
            for answer, each in zip(answers, tickets, strict=True)
        ]
        self._post("/v1/outcomes", {"outcomes": said})
        right = [answer["output"]["category"] == each.label for answer, each in zip(answers, tickets, strict=True)]
        return float(sum(right) / BATCH)

    def _post(self, path: str, body: Any) -> Any:
        return self.http.post(path, json=body).raise_for_status().json()

    def champion(self) -> str:
        return str(self.http.get("/v1/programs/triage").raise_for_status().json()["champion"])


@pytest.mark.timeout(240)
def test_the_loop_closes_by_itself_when_the_world_changes_and_does_nothing_while_it_does_not(tmp_path: Path) -> None:
    definitions = tmp_path / "ratchet.yaml"
    definitions.write_text(DEFINITIONS)
    at = {"RATCHET_TICK": "250ms"}
    with RunningServer(tmp_path / "data", config=definitions, environment=at) as server, server.client() as http:
        world = World(http)
        before = sum(world.share_right() for _ in range(8)) / 8
        time.sleep(2)
        assert http.get("/v1/compiles").json()["items"] == []
        assert before > 0.9

        world.shift = SHIFT
        during = world.share_right()
        assert during < before - 0.2
        end = time.monotonic() + 180
        while world.champion() == "base":
            assert time.monotonic() < end, server.command("status").stdout + server.command("drift").stdout
            world.share_right()
            time.sleep(0.2)
        after = sum(world.share_right() for _ in range(4)) / 4
        assert after > during + 0.15

        (run,) = http.get("/v1/compiles").json()["items"]
        assert (run["state"], run["reason"], run["variant"]) == ("succeeded", "drift", world.champion())
        trial = http.get(f"/v1/experiments/{run['experiment_id']}").json()
        assert (trial["state"], trial["verdict"]) == ("concluded", "promote")
        (decision,) = http.get(f"/v1/experiments/{run['experiment_id']}/decisions").json()["items"]
        assert (decision["by"], decision["actor"]) == ("engine", None)
        assert server.command("replay", run["experiment_id"]).returncode == 0
