"""Several processes on one PostgreSQL: what is true of all is shown by one, and after its death by another one."""

import json
from pathlib import Path

from tests.e2e.desk import GOOD, Desk, until
from tests.servers import DEFINITIONS, RunningServer

EXPERIMENTS = """
    experiments: {ramp: [], split: {champion: 0.5, challenger: 0.5}, min_duration: 1d, outcome_window: 2s, block: 1s}
"""
PROGRESS = 'ratchet_experiment_progress_ratio{program="triage"}'
RUNS = 'ratchet_compile_runs{program="triage",state="queued"}'
ANSWERED = "ratchet_predictions_total"


def shown(server: RunningServer) -> dict[str, float]:
    """Every series of a process."""
    with server.client() as http:
        lines = [line for line in http.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_the_domain_is_shown_once_and_moves_with_the_leadership(tmp_path: Path, postgres_url: str) -> None:
    definitions = tmp_path / "ratchet.yaml"
    definitions.write_text(DEFINITIONS + EXPERIMENTS)
    at = {"RATCHET_DATABASE_URL": postgres_url, "RATCHET_TICK": "500ms", "RATCHET_LEASE": "1s"}
    with (
        RunningServer(tmp_path / "serving", verb="serve", config=definitions, environment=at) as serving,
        RunningServer(tmp_path / "one", verb="work", environment=at) as one,
        RunningServer(tmp_path / "two", verb="work", environment=at) as two,
        Desk(lambda: serving.url, "triage") as desk,
    ):
        with serving.client() as http:
            http.post("/v1/programs/triage/variants", json={"name": "better", "instructions": GOOD})
        made = serving.command("experiments", "create", "triage", "better", "--start", "--json")
        assert json.loads(made.stdout)["state"] == "running"

        def leaders() -> list[RunningServer]:
            return [each for each in (one, two) if each.process.is_alive() and shown(each)["ratchet_leader"]]

        until(lambda: any(PROGRESS in shown(each) for each in leaders()))
        (leader,) = leaders()
        (other,) = {one, two} - {leader}
        assert not {PROGRESS, RUNS} & (shown(other).keys() | shown(serving).keys())
        before = shown(leader)[PROGRESS]

        leader.kill()
        until(lambda: PROGRESS in shown(other), seconds=20)
        assert shown(other)[PROGRESS] >= before
        assert shown(other)[RUNS] == 0
        assert PROGRESS not in shown(serving)
        counted = sum(value for name, value in shown(serving).items() if name.startswith(ANSWERED))
        assert 0 < counted <= sum(desk.served.values()) + 20
