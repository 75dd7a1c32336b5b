"""Harm to the loop while it runs: dead language models, a full disk, kill -9. Nothing happens that should not."""

import json
import random
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.desk import until
from tests.e2e.world import QUICK, SHIFT, Look, World, definitions
from tests.faults.provider import providing, refusing
from tests.learning.jobs import serving
from tests.servers import RunningServer

pytestmark = pytest.mark.timeout(300)


def check_nothing_came_of_it(look: Look, server: RunningServer) -> None:
    """The champion serves as before, the alarm is lived with, and what was paid is told."""
    (run,) = look.runs
    until(lambda: look.alarms[-1]["closed_at"])
    assert look.alarms[-1]["closed_by"] == f"compile run {run['compile_id']} was failed"
    assert (look.champion, look.variants, look.experiments) == ("base", ["base"], [])
    until(lambda: "cool-down after the last run" in look.outlook)
    assert float(run["spent_usd"]) > 0
    until(lambda: _cost(server) == pytest.approx(float(run["spent_usd"])))


def _cost(server: RunningServer) -> float:
    lines = httpx.get(f"{server.url}/metrics", trust_env=False).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("ratchet_compile_cost_dollars_total"))


def test_a_dead_reflection_lm_fails_the_run_with_its_reason_and_nothing_is_promoted(tmp_path: Path) -> None:
    with providing() as provider:
        provider.faults["dead"] = refusing(401)
        reflection = {"model": "acme/dead", "api_base": provider.url, "price": {"input": 1.25, "output": 10}}
        config = tmp_path / "ratchet.yaml"
        config.write_text(definitions(reflection_lm=reflection, cooldown="1h"))
        with RunningServer(tmp_path / "data", config=config, environment=QUICK) as server:
            look = Look(lambda: server.url)
            with World(lambda: server.url) as world:
                world.share_right(400)
                world.shift = SHIFT
                run = look.ended()
            assert run["state"] == "failed"
            assert "reflection LM" in run["error"]
            assert "the scripted 401" in run["error"]
            check_nothing_came_of_it(look, server)
        assert 0 < provider.calls["dead"] <= 20, "a key that is wrong stays wrong"


def test_a_student_lm_that_dies_fails_the_run_with_its_reason_and_nothing_is_promoted(tmp_path: Path) -> None:
    config = tmp_path / "ratchet.yaml"
    with ExitStack() as stack:
        alive = stack.enter_context(ExitStack())
        provider = alive.enter_context(serving(latency=0.02))
        student = {"model": "acme/triage", "api_base": provider.lm.api_base, "price": {"input": 0.15, "output": 0.6}}
        config.write_text(definitions(lm=student, cooldown="1h"))
        server = stack.enter_context(RunningServer(tmp_path / "data", config=config, environment=QUICK))
        look = Look(lambda: server.url)
        with World(lambda: server.url) as world:
            world.share_right(400)
            world.shift = SHIFT
            until(lambda: look.runs and look.runs[0]["progress"]["metric_calls"] > 20)
        alive.close()
        run = look.ended()
        assert run["state"] == "failed"
        assert "student LM" in run["error"]
        check_nothing_came_of_it(look, server)


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_FSIZE"), reason="only Linux can limit the files of a running process")
def test_a_disk_that_is_full_where_runs_are_kept_fails_the_run_and_the_next_one_succeeds(
    tmp_path: Path, postgres_url: str
) -> None:
    """Facts are elsewhere and keep coming in: only the worker's disk is full."""
    config = tmp_path / "ratchet.yaml"
    config.write_text(definitions(cooldown="5s"))
    at = {**QUICK, "RATCHET_DATABASE_URL": postgres_url}
    with (
        RunningServer(tmp_path / "s", verb="serve", config=config, environment=at) as server,
        RunningServer(tmp_path / "w", verb="work", environment=at) as worker,
    ):
        look, process = Look(lambda: server.url), psutil.Process(worker.pid)
        unlimited = process.rlimit(psutil.RLIMIT_FSIZE)
        process.rlimit(psutil.RLIMIT_FSIZE, (250_000, unlimited[1]))
        with World(lambda: server.url) as world:
            world.share_right(400)
            world.shift = SHIFT
            run = look.ended()
            process.rlimit(psutil.RLIMIT_FSIZE, unlimited)
            assert run["state"] == "failed"
            assert "3 attempts failed" in run["error"]
            assert "File too large" in run["error"]
            assert 0 < float(run["spent_usd"]) <= 1
            assert look.champion == "base"
            until(lambda: not list((tmp_path / "w" / "compiles").iterdir()))
            assert look.ended(2)["state"] == "succeeded"


def test_a_server_that_is_killed_again_and_again_compiles_once_tries_once_and_promotes_once(tmp_path: Path) -> None:
    config, chance = tmp_path / "ratchet.yaml", random.Random(4)
    config.write_text(definitions())
    with ExitStack() as stack:

        def started() -> RunningServer:
            return stack.enter_context(RunningServer(tmp_path / "data", config=config, environment=QUICK))

        server = started()
        look = Look(lambda: server.url)
        with World(lambda: server.url) as world:
            world.share_right(400)
            world.shift = SHIFT
            until(lambda: look.alarms)
            kills = 0
            while look.champion == "base":
                time.sleep(chance.uniform(0.1, 3 + kills / 2))
                server.kill()
                kills += 1
                assert kills < 25, look.runs
                server = started()
            world.share_right(100)
        (run,), (trial,), (alarm,) = look.runs, look.experiments, look.alarms
        assert (run["state"], run["variant"], run["experiment_id"]) == ("succeeded", "gepa-1", trial["experiment_id"])
        assert look.variants == ["base", "gepa-1"]
        decisions = look.get(f"/v1/experiments/{trial['experiment_id']}/decisions")["items"]
        assert [decision["verdict"] for decision in decisions] == ["promote"]
        assert alarm["closed_at"]
        assert server.command("replay", trial["experiment_id"]).returncode == 0
        assert json.loads(server.command("drift", "triage", "--replay", "--json").stdout)["agrees"]
        assert kills >= 2, "it was over before it began"
