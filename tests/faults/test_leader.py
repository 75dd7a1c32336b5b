"""The leader dies, or is suspended and wakes: another takes over, and never do two act on the same facts."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.e2e.desk import GOOD, POOR, Desk, until
from tests.postgres import Postgres
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
      1s, holdback: 0}}
"""


@contextmanager
def workers(tmp_path: Path, url: str) -> Iterator[tuple[RunningServer, RunningServer]]:
    """Two workers, the first of which leads."""
    at = {"RATCHET_DATABASE_URL": url, "RATCHET_TICK": "200ms", "RATCHET_LEASE": "1500ms", "RATCHET_LOG_LEVEL": "info"}
    with ExitStack() as stack:
        first = stack.enter_context(RunningServer(tmp_path / "w1", verb="work", environment=at))
        until(lambda: leads(first))
        yield first, stack.enter_context(RunningServer(tmp_path / "w2", verb="work", environment=at))


def leads(worker: RunningServer) -> bool:
    with worker.client() as http:
        return "\nratchet_leader 1.0" in http.get("/metrics").text


def ticks(url: str) -> list[tuple[str, int]]:
    """The ticks that were finished."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT job, due_at FROM ticks WHERE finished_at IS NOT NULL")).all()
    engine.dispose()
    return [(row.job, row.due_at) for row in rows]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_another_takes_over_from_a_leader_that_ended(tmp_path: Path, postgres_url: str, number: signal.Signals) -> None:
    with workers(tmp_path, postgres_url) as (first, second):
        assert not leads(second)
        first.send(number)
        first.wait()
        until(lambda: leads(second), seconds=30)
        done = len(ticks(postgres_url))
        until(lambda: len(ticks(postgres_url)) > done)


def test_a_leader_that_was_suspended_acts_no_more_when_it_wakes(tmp_path: Path, postgres_url: str) -> None:
    with workers(tmp_path, postgres_url) as (first, second):
        first.send(signal.SIGSTOP)
        until(lambda: leads(second), seconds=30)
        first.send(signal.SIGCONT)
        until(lambda: "leadership_lost" in first.log.read_text())
        assert not leads(first)
        assert leads(second)
        assert "crashed" not in first.log.read_text()


def test_the_leader_goes_on_after_an_outage_of_the_database(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.create()
    with workers(tmp_path, url) as pair:
        postgres.stop()
        until(lambda: not any(leads(worker) for worker in pair))
        postgres.start()
        until(lambda: sum(leads(worker) for worker in pair) == 1)
        done = len(ticks(url))
        until(lambda: len(ticks(url)) > done)
    postgres.drop(url)


@pytest.mark.timeout(240)
def test_an_experiment_is_decided_once_though_its_leaders_are_suspended_in_turn(
    tmp_path: Path, postgres_url: str
) -> None:
    definitions = tmp_path / "ratchet.yaml"
    definitions.write_text(DEFINITIONS)
    at = {"RATCHET_DATABASE_URL": postgres_url}
    with RunningServer(tmp_path / "s", verb="serve", config=definitions, environment=at) as server:
        with server.client() as http:
            http.post("/v1/programs/triage/variants", json={"name": "better", "instructions": GOOD})
        made = server.command("experiments", "create", "triage", "better", "--start", "--json")
        identity = json.loads(made.stdout)["experiment_id"]

        def decisions() -> list[str]:
            with server.client() as http:
                listed = http.get(f"/v1/experiments/{identity}/decisions").json()["items"]
            return [decision["verdict"] for decision in listed]

        with workers(tmp_path, postgres_url) as pair, Desk(lambda: server.url, "triage"):
            turn = 0
            while not decisions():
                leader = next((worker for worker in pair if leads(worker)), pair[turn % 2])
                leader.send(signal.SIGSTOP)
                other = pair[1] if leader is pair[0] else pair[0]
                until(partial(leads, other), seconds=30)
                leader.send(signal.SIGCONT)
                turn += 1
                time.sleep(1)
                assert turn < 40
            time.sleep(1)
        assert decisions() == ["promote"]
        done = ticks(postgres_url)
        assert len(done) == len(set(done))
        replayed = server.command("replay", identity, "--json")
        assert replayed.returncode == 0, replayed.stdout
