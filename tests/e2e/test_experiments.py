"""The life of experiments on a real server, by HTTP and the command line only, on real ticks."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.desk import GOOD, POOR, Desk, until
from tests.servers import RunningServer

PROGRAM = """
  {name}:
    signature: "ticket: str -> category: Literal['billing', 'bug', 'how-to', 'other']"
    instructions: {instructions}
    lm: {{model: sim/triage, options: {{noise: 0}}}}
    timeout: 2s
    metrics:
      correct: {{kind: exact_match, field: category, role: goal, expected: all}}
    experiments:
      {{ramp: [], split: {{champion: 0.5, challenger: 0.5}}, min_effect: 0.05, min_units: 40, max_units: {max_units},
        min_duration: 0, outcome_window: 3s, block: 1s}}
"""
PROGRAMS = {
    "rising": (POOR, 4000),
    "falling": (GOOD, 4000),
    "level": (POOR, 600),
    "frozen": (POOR, 4000),
}
AT = {"RATCHET_TICK": "200ms"}


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("e2e") / "ratchet.yaml"
    made = [
        PROGRAM.format(name=name, instructions=json.dumps(instructions), max_units=units)
        for name, (instructions, units) in PROGRAMS.items()
    ]
    path.write_text("programs:" + "".join(made))
    return path


@pytest.fixture(scope="module")
def server(definitions: Path) -> Iterator[RunningServer]:
    with RunningServer(definitions.parent / "data", config=definitions, environment=AT) as server:
        yield server


def told(server: RunningServer, *arguments: str) -> Any:
    """What a verb answers as JSON."""
    done = server.command(*arguments, "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def upload(server: RunningServer, program: str, name: str, instructions: str) -> None:
    with server.client() as http:
        answer = http.post(f"/v1/programs/{program}/variants", json={"name": name, "instructions": instructions})
    assert answer.status_code == 201, answer.text


def get(server: RunningServer, path: str) -> Any:
    with server.client() as http:
        answer = http.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def champion(server: RunningServer, program: str) -> str:
    return str(get(server, f"/v1/programs/{program}")["champion"])


def concluded(server: RunningServer, identity: str) -> Any:
    """The experiment, once it has its verdict."""

    def ended() -> Any:
        found = get(server, f"/v1/experiments/{identity}")
        return found if found["state"] == "concluded" else None

    return until(ended)


def units(server: RunningServer, identity: str) -> int:
    """How many units the evidence holds."""
    return sum(arm["units"] for arm in get(server, f"/v1/experiments/{identity}/report")["arms"])


def agrees(server: RunningServer, identity: str) -> None:
    """A replay derives what is stored."""
    replayed = told(server, "replay", identity)
    assert replayed["decisions"] > 0
    assert replayed["blocks"] > 0
    assert replayed["differences"] == []


def test_a_better_challenger_is_promoted_and_a_rollback_restores_the_champion(definitions: Path) -> None:
    """With a kill -9 and a pause on the way."""
    running = [RunningServer(definitions.parent / "rising", config=definitions, environment=AT)]
    try:
        with Desk(lambda: running[-1].url, "rising") as desk:
            upload(running[-1], "rising", "better", GOOD)
            made = told(running[-1], "experiments", "create", "rising", "better")
            identity = made["experiment_id"]
            assert made["state"] == "draft"
            # Nothing is promoted before this is over: the promotion must see facts of both processes.
            told(running[-1], "freeze", "-m", "a restart is coming")
            assert told(running[-1], "experiments", "start", identity, "-m", "a test")["state"] == "running"
            until(lambda: units(running[-1], identity) > 40)

            before = paused(running[-1], identity, desk)
            running[-1].kill()
            running.append(RunningServer(definitions.parent / "rising", config=definitions, environment=AT))
            resumed(running[-1], identity, desk, before)

            seen = units(running[-1], identity)
            until(lambda: units(running[-1], identity) > seen)
            told(running[-1], "unfreeze", "-m", "the restart is over")
            verdict = concluded(running[-1], identity)
            assert (verdict["verdict"], champion(running[-1], "rising")) == ("promote", "better")
            agrees(running[-1], identity)
        shown = running[-1].command("experiments", "show", identity).stdout
        assert "promote" in shown
        assert verdict["reason"] in shown
        assert 'ratchet_promotions_total{by="engine",program="rising"} 1.0' in metrics(running[-1])
        told(running[-1], "experiments", "rollback", identity, "-m", "a test")
        assert champion(running[-1], "rising") == "base"
        assert [answer["variant"] for answer in desk.serve(10**6, 5)] == ["base"] * 5
        assert get(running[-1], f"/v1/experiments/{identity}")["rolled_back"] is True
        agrees(running[-1], identity)
        assert running[-1].stop() == 0
    finally:
        for server in running:
            server.__exit__(None, None, None)


def paused(server: RunningServer, identity: str, desk: Desk) -> list[str]:
    """Pause; the variants that some users met before it. While it lasts everybody is served by the champion."""
    before = [answer["assigned_variant"] for answer in desk.serve(0, 20)]
    assert set(before) == {"base", "better"}
    assert told(server, "experiments", "pause", identity, "-m", "a test")["state"] == "paused"
    during = desk.serve(10**5, 20)
    assert {(answer["variant"], answer["experiment_id"], answer["propensity"]) for answer in during} == {
        ("base", None, 1.0)
    }
    return before


def resumed(server: RunningServer, identity: str, desk: Desk, before: list[str]) -> None:
    """Resume; every user meets the variant of before."""
    assert told(server, "experiments", "resume", identity, "-m", "a test")["state"] == "running"
    assert [answer["assigned_variant"] for answer in desk.serve(0, 20)] == before


def metrics(server: RunningServer) -> str:
    with server.client() as http:
        return http.get("/metrics").text


def test_a_worse_challenger_is_rolled_back(server: RunningServer) -> None:
    upload(server, "falling", "worse", POOR)
    with Desk(lambda: server.url, "falling"):
        identity = told(server, "experiments", "create", "falling", "worse", "--start")["experiment_id"]
        verdict = concluded(server, identity)
    assert (verdict["verdict"], champion(server, "falling")) == ("rollback", "base")
    assert "worse" in verdict["reason"]
    agrees(server, identity)


def test_an_a_a_experiment_is_not_promoted(server: RunningServer) -> None:
    with Desk(lambda: server.url, "level") as desk:
        identity = told(server, "experiments", "create", "level", "--aa", "--start")["experiment_id"]
        verdict = concluded(server, identity)
    assert verdict["verdict"] in ("futile", "inconclusive")
    assert desk.served["base-aa"] > 0
    assert champion(server, "level") == "base"
    agrees(server, identity)


def test_while_frozen_nothing_acts_by_itself(server: RunningServer) -> None:
    upload(server, "frozen", "better", GOOD)
    told(server, "freeze", "-m", "an incident")
    with Desk(lambda: server.url, "frozen"):
        identity = told(server, "experiments", "create", "frozen", "better", "--start")["experiment_id"]

        def proven() -> bool:
            report = get(server, f"/v1/experiments/{identity}/report")
            return bool(report["recommended_action"] == "promote better")

        until(proven)
        assert get(server, f"/v1/experiments/{identity}")["state"] == "running"
        assert champion(server, "frozen") == "base"
        assert "an incident" in server.command("status").stdout
        told(server, "unfreeze", "-m", "it is over")
        assert concluded(server, identity)["verdict"] == "promote"
    agrees(server, identity)
