"""A server dies while it compiles: the child ends with it, and the run goes on where it was once there is a server."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from server.store import Store
from tests.e2e.desk import until
from tests.server.loop.feedback import PROGRAM, SLOW, labelled
from tests.servers import RunningServer


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with enough to learn from."""
    path = tmp_path / "data"
    asyncio.run(_fill(f"sqlite:///{path / 'ratchet.db'}"))
    return path


async def _fill(url: str) -> None:
    store = Store.open(url, migrating=True)
    await labelled(store, 240)
    await store.close()


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """The definitions of a program whose compile takes half a minute."""
    path = tmp_path / "ratchet.yaml"
    path.write_text(SLOW)
    return path


def ask(server: RunningServer) -> str:
    with server.client() as http:
        return str(http.post("/v1/programs/triage/compiles", json={}).raise_for_status().json()["compile_id"])


def run_of(server: RunningServer, compile_id: str) -> dict[str, Any]:
    with server.client() as http:
        return dict(http.get(f"/v1/compiles/{compile_id}").raise_for_status().json())


def when(server: RunningServer, compile_id: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    end = time.monotonic() + 90
    while not holds(run := run_of(server, compile_id)):
        assert time.monotonic() < end, run
        time.sleep(0.2)
    return run


def begun(run: dict[str, Any]) -> bool:
    return bool(run["state"] == "running" and run["progress"]["metric_calls"] > 20)


def ended(run: dict[str, Any]) -> bool:
    return run["state"] not in ("queued", "running")


def child_of(server: RunningServer) -> psutil.Process:
    (child,) = (c for c in psutil.Process(server.pid).children() if "learning.compiling.child" in " ".join(c.cmdline()))
    return child


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_goes_on_after_its_server_died_and_does_not_pay_again(
    data: Path, slow: Path, number: signal.Signals
) -> None:
    with RunningServer(data, config=slow) as server:
        compile_id = ask(server)
        when(server, compile_id, lambda run: run["progress"]["metric_calls"] > 120)
        child = child_of(server)
        server.send(number)
        server.wait()
        until(lambda: not child.is_running())
    directory = data / "compiles" / compile_id
    told = _lines(directory / "events.jsonl")
    reached = told[-1]["progress"]["metric_calls"]
    paid = sum(line.get("cost") or 0 for line in _lines(directory / "calls.jsonl"))
    with RunningServer(data, config=slow) as server:
        run = when(server, compile_id, ended)
        again = [event for event in events(server, compile_id) if event["number"] > len(told)]
    assert (run["state"], run["variant"]) == ("succeeded", "gepa-1")
    assert not directory.exists()
    beyond = next(event for event in again if event["progress"]["metric_calls"] > reached)
    further = paid * (beyond["progress"]["metric_calls"] - reached) / reached
    spent = 10**12 * float(beyond["spent_usd"])
    assert 0 < paid < spent < 1.3 * paid + 1.5 * further < 2 * paid, "what was paid before was paid again"


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that were written to their end."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def events(server: RunningServer, compile_id: str) -> list[dict[str, Any]]:
    """What a run that has ended told of itself."""
    with server.client() as http:
        told = http.get(f"/v1/compiles/{compile_id}/events").raise_for_status().text
    data = [json.loads(line.removeprefix("data: ")) for line in told.splitlines() if line.startswith("data: ")]
    return data[:-1]


@pytest.mark.timeout(240)
def test_another_worker_takes_over_the_run_of_one_that_died(tmp_path: Path, postgres_url: str, slow: Path) -> None:
    """It has another disk: what was paid is counted, and what was found is found again."""
    asyncio.run(_fill(postgres_url))
    at = {"RATCHET_DATABASE_URL": postgres_url, "RATCHET_LEASE": "1500ms"}
    with (
        RunningServer(tmp_path / "s", verb="serve", config=slow, environment=at) as server,
        RunningServer(tmp_path / "w1", verb="work", environment=at) as one,
        RunningServer(tmp_path / "w2", verb="work", environment=at) as two,
    ):
        compile_id = ask(server)
        before = when(server, compile_id, begun)
        busy = one if _compiles(one) else two
        busy.kill()
        run = when(server, compile_id, ended)
        assert (run["state"], run["variant"]) == ("succeeded", "gepa-1")
        assert float(run["spent_usd"]) > 1.1 * float(before["spent_usd"])


def _compiles(worker: RunningServer) -> bool:
    return any(
        "learning.compiling.child" in " ".join(child.cmdline()) for child in psutil.Process(worker.pid).children()
    )


@pytest.mark.timeout(120)
def test_a_stream_does_not_hold_up_a_server_that_is_told_to_stop(data: Path, slow: Path) -> None:
    with RunningServer(data, config=slow) as server:
        compile_id = ask(server)
        when(server, compile_id, begun)
        with server.client() as http, http.stream("GET", f"/v1/compiles/{compile_id}/events") as response:
            lines = response.iter_lines()
            assert next(lines).startswith(":")
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 20
            assert not any(line.startswith("event: end") for line in lines)


@pytest.mark.timeout(120)
def test_who_stops_following_is_told_that_the_run_goes_on_and_how_to_cancel_it(data: Path, slow: Path) -> None:
    with RunningServer(data, config=slow) as server:
        compile_id = ask(server)
        when(server, compile_id, begun)
        command = [str(Path(sys.executable).with_name("ratchet")), "compile", "triage", "--follow"]
        following = subprocess.Popen(
            command, env=server.environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert following.stderr is not None
        while "proposed" not in following.stderr.readline():
            assert following.poll() is None
        following.send_signal(signal.SIGINT)
        _, said = following.communicate(timeout=30)
        assert following.returncode == 130
        assert "ratchet compile triage --cancel" in said
        assert run_of(server, compile_id)["state"] == "running"
        assert server.command("compile", "triage", "--cancel").returncode == 0
        assert when(server, compile_id, ended)["state"] == "cancelled"


@pytest.mark.timeout(120)
def test_the_command_asks_follows_and_tells_how_it_ended(data: Path, tmp_path: Path) -> None:
    definitions = tmp_path / "quick.yaml"
    definitions.write_text(PROGRAM)
    with RunningServer(data, config=definitions) as server:
        with server.client() as http:  # no trial begins in between, which would forbid the second
            http.post("/v1/freeze", json={"reason": "to compile twice"}).raise_for_status()
        dry = server.command("compile", "triage", "--dry-run", "--json")
        assert json.loads(dry.stdout)["min_metric_calls"] > 0
        done = server.command("compile", "triage", "--follow", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["state"] == "succeeded"
        refused = server.command("compile", "triage", "--cancel")
        assert refused.returncode == 1
        assert "no run of triage is under way" in refused.stderr
        followed = server.command("compile", "triage", "--follow", "--optimizer", "bootstrap_few_shot")
        assert "sealed" in followed.stdout + followed.stderr
