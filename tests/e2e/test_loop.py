"""The whole loop on real servers, with no human call: the world changes, and the program is as good as before.

Real processes, HTTP, `dspy.GEPA` and decisions; the language models are simulated. And the runs in which nothing may
come of it: no change, no better candidate, a candidate that only looked better, an operator who says no.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from learning.engines.triage import LABELS
from tests.e2e.desk import until
from tests.e2e.world import QUICK, SHIFT, Look, World, definitions
from tests.servers import RunningServer

pytestmark = pytest.mark.timeout(300)

USELESS = ["Answer as you see fit.", "Be quick: the first word is enough.", "Always be polite.", "Guess."]
WRONG: dict[str, str] = dict(zip(LABELS, [*LABELS[1:], LABELS[0]], strict=True))
"""Every category taken for another one."""


class Installation(msgspec.Struct, frozen=True):
    """A server, and those that work, which are itself where it is alone."""

    server: RunningServer
    workers: list[RunningServer]

    def metric(self, sample: str) -> float:
        """The value of one sample: what the leader alone shows is not with the others."""
        found = [line for each in {*self.workers, self.server} for line in _samples(each) if line.startswith(sample)]
        return sum(float(line.rpartition(" ")[2]) for line in found)


def _samples(server: RunningServer) -> list[str]:
    return httpx.get(f"{server.url}/metrics", trust_env=False).text.splitlines()


@pytest.fixture(params=["embedded", "replicated"])
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Installation]]:
    """Starts `ratchet up` on SQLite, or `serve` and two `work` on PostgreSQL, with a definitions file."""
    config, alone = tmp_path / "ratchet.yaml", request.param == "embedded"
    at = QUICK if alone else {**QUICK, "RATCHET_DATABASE_URL": request.getfixturevalue("postgres_url")}
    with ExitStack() as stack:

        def start(written: str) -> Installation:
            config.write_text(written)
            verb = "up" if alone else "serve"
            server = RunningServer(tmp_path / "server", verb=verb, config=config, environment=at)
            stack.enter_context(server)
            others = [] if alone else [RunningServer(tmp_path / w, verb="work", environment=at) for w in ("w1", "w2")]
            return Installation(server, [stack.enter_context(worker) for worker in others] or [server])

        yield start


def test_a_changed_world_is_noticed_learned_from_and_answered_by_a_promotion(
    installed: Callable[[str], Installation],
) -> None:
    installation = installed(definitions())
    server = installation.server
    look = Look(lambda: server.url)
    with World(lambda: server.url) as world:
        before = world.share_right(600)
        world.shift = SHIFT
        during = world.share_right()
        until(lambda: look.champion != "base", seconds=200)
        after = world.share_right(400)
        # The new champion is held to what it has shown in the experiment, from the first.
        held = until(lambda: next((s for s in signals(look) if s["variant"] == look.champion), None))
    assert before > 0.9
    assert during < before - 0.2
    assert after > during + 0.15
    assert held["baseline"] > (during + after) / 2

    (run,) = look.runs
    (trial,) = look.experiments
    (alarm,) = look.alarms
    assert (run["state"], run["reason"], run["variant"]) == ("succeeded", "drift", look.champion)
    assert (run["experiment_id"], run["error"]) == (trial["experiment_id"], None)
    check_record(look, server, run)
    check_trial(look, server, trial)
    assert alarm["variant"] == "base"
    assert alarm["score"] < alarm["baseline"]
    assert "is the champion now" in alarm["closed_by"]
    assert moment(alarm["change_point"]) <= moment(alarm["noticed_at"]) <= moment(run["created_at"])
    assert json.loads(server.command("drift", "triage", "--replay", "--json").stdout)["agrees"]
    until(lambda: installation.metric('ratchet_recompiles_total{program="triage",reason="drift",result="admitted"}'))
    assert installation.metric('ratchet_promotions_total{by="engine",program="triage"}') == 1
    assert installation.metric("ratchet_compile_cost_dollars_total") == pytest.approx(float(run["spent_usd"]))


def check_record(look: Look, server: RunningServer, run: dict[str, Any]) -> None:
    """What was done, for how much, and where the candidate comes from, is on record."""
    assert 0 < float(run["spent_usd"]) <= 1
    assert 0 < run["progress"]["metric_calls"] <= 900
    gate = run["gate"]
    assert gate["admitted"]
    assert 0 < gate["lower"] <= gate["gain"]
    assert (gate["baseline_score"], gate["candidate_score"]) == (run["baseline_score"], run["candidate_score"])
    with httpx.stream("GET", f"{server.url}/v1/compiles/{run['compile_id']}/events", trust_env=False) as told:
        kinds = [line.removeprefix("event: ") for line in told.iter_lines() if line.startswith("event: ")]
    assert (kinds[0], kinds[-2:]) == ("started", ["ended", "end"])
    assert {"baseline", "proposed", "accepted", "progress", "holdout"} <= set(kinds)
    made = look.get(f"/v1/programs/triage/variants/{run['variant']}")
    assert (made["parent"], made["origin"], made["compile_id"]) == ("base", "compile", run["compile_id"])
    assert made["scores"]["dataset"]
    assert made["scores"]["holdout"]["candidate"] == run["candidate_score"]


def check_trial(look: Look, server: RunningServer, trial: dict[str, Any]) -> None:
    """It was decided by nobody but the engine, and the rows bear it out."""
    path = f"/v1/experiments/{trial['experiment_id']}"
    assert (trial["state"], trial["verdict"]) == ("concluded", "promote")
    (decision,) = look.get(f"{path}/decisions")["items"]
    assert (decision["by"], decision["actor"]) == ("engine", None)
    replayed = server.command("replay", trial["experiment_id"])
    assert replayed.returncode == 0, replayed.stdout


def signals(look: Look) -> list[dict[str, Any]]:
    """What is said of the score of each variant on traffic."""
    found = look.get("/v1/programs/triage/drift")["signals"]
    return [each for each in found if each["signal"] == "score" and each["baseline"] is not None]


def moment(written: str) -> datetime:
    return datetime.fromisoformat(written)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[[str], RunningServer]]:
    """Starts `ratchet up` with a definitions file, which can be written anew."""
    with ExitStack() as stack:

        def start(written: str) -> RunningServer:
            (tmp_path / "ratchet.yaml").write_text(written)
            running = RunningServer(tmp_path / "data", config=tmp_path / "ratchet.yaml", environment=QUICK)
            return stack.enter_context(running)

        yield start


def test_in_a_stable_world_nothing_happens_and_the_server_says_why(server: Callable[[str], RunningServer]) -> None:
    running = server(definitions())
    look = Look(lambda: running.url)
    with World(lambda: running.url, per_second=1000) as world:
        assert world.share_right(3000) > 0.9
        until(lambda: sum(each["outcomes"] for each in signals(look)) >= 2500)
    assert (look.runs, look.experiments, look.alarms) == ([], [], [])
    assert (look.champion, look.variants) == ("base", ["base"])
    assert "no drift alarm" in look.outlook
    assert all(each["evidence_ratio"] < 1 for each in signals(look))


def test_nothing_but_worse_candidates_and_then_none_that_is_good_enough_leave_the_champion_as_it_is(
    server: Callable[[str], RunningServer], tmp_path: Path
) -> None:
    useless = {"model": "sim/phrases", "options": {"phrases": USELESS}, "price": {"input": 1, "output": 1}}
    running = server(definitions(reflection_lm=useless, cooldown="4s"))
    look = Look(lambda: running.url)
    with World(lambda: running.url) as world:
        world.share_right(400)
        world.shift = SHIFT
        first = look.ended()
        assert (first["state"], first["variant"], first["experiment_id"]) == ("rejected", None, None)
        assert first["error"] or first["gate"]["faults"]
        assert 0 < float(first["spent_usd"]) <= 1
        (tmp_path / "ratchet.yaml").write_text(definitions(gate={"min_score": 0.999}, cooldown="4s"))
        until(lambda: look.alarms[-1]["closed_at"])
        assert look.alarms[-1]["closed_by"] == f"compile run {first['compile_id']} was rejected"
        until(lambda: "cool-down after the last run" in look.outlook or len(look.runs) > 1)

        second = look.ended(2)
        assert (second["state"], second["variant"], second["experiment_id"]) == ("rejected", None, None)
        assert second["reason"] == "drift", "what lasts is answered again"
        assert (moment(second["created_at"]) - moment(first["finished_at"])).total_seconds() >= 4
        assert second["gate"]["candidate_score"] > second["gate"]["baseline_score"]
        assert any("0.999" in fault for fault in second["gate"]["faults"]), second["gate"]
    assert (look.champion, look.variants, look.experiments) == ("base", ["base"], [])


def test_a_candidate_that_is_worse_with_users_is_rolled_back_and_the_fall_is_answered_again(
    server: Callable[[str], RunningServer],
) -> None:
    """While it was compiled users took every category for another one: it has learned what is true no more.

    Harm is acted on at once, futility after `min_units`: it is the harm that is to be seen here.
    """
    running = server(definitions(cooldown="15s", min_units=1000))
    look = Look(lambda: running.url)
    with World(lambda: running.url) as world:
        world.share_right(400)
        world.shift, world.truth = SHIFT, WRONG
        until(lambda: look.runs and look.runs[0]["state"] == "running")  # one that is still queued would wait
        running.command("freeze", "--reason", "the candidate is to meet the world as it is then").check_returncode()
        first = look.ended()
        assert (first["state"], first["variant"]) == ("succeeded", "gepa-1")
        world.truth = {}
        world.share_right(100)
        running.command("unfreeze", "--reason", "now").check_returncode()

        (trial,) = until(lambda: [each for each in look.experiments if each["state"] == "concluded"])
        assert (trial["verdict"], trial["experiment_id"]) == ("rollback", look.runs[-1]["experiment_id"])
        alarm = until(lambda: next((each for each in look.alarms if each["closed_at"]), None))
        assert alarm["closed_by"] == f"compile run {first['compile_id']} led to a trial that ended rollback"
        until(lambda: f"which run {first['compile_id']} did not answer" in look.outlook)
        second = until(lambda: look.runs[0] if len(look.runs) > 1 else None)
        assert second["reason"] == "drift"
        assert (moment(second["created_at"]) - moment(first["finished_at"])).total_seconds() >= 15
    assert look.champion == "base"


def test_an_operator_may_stop_the_loop_go_ahead_of_it_and_let_it_go_on(server: Callable[[str], RunningServer]) -> None:
    running = server(definitions())
    look = Look(lambda: running.url)
    with World(lambda: running.url) as world:
        world.share_right(400)
        assert running.command("freeze", "--reason", "a holiday").returncode == 0
        world.shift = SHIFT
        until(lambda: look.alarms)
        until(lambda: "frozen" in look.outlook)
        assert look.runs == []

        done = running.command("compile", "triage", "--follow", "--json")
        assert done.returncode == 0, done.stderr
        run = json.loads(done.stdout)
        assert (run["state"], run["reason"], run["variant"]) == ("succeeded", "operator", "gepa-1")
        until(lambda: "frozen" in (look.runs[0]["error"] or ""))
        assert look.experiments == []

        assert running.command("unfreeze", "--reason", "back again").returncode == 0
        until(lambda: look.champion == "gepa-1")
    (run,) = look.runs
    assert (run["error"], run["experiment_id"]) == (None, look.experiments[0]["experiment_id"])


def test_a_cancelled_run_closes_its_alarm_and_the_fall_is_answered_again(
    server: Callable[[str], RunningServer],
) -> None:
    slow = {"model": "sim/triage", "options": {"seed": 3, "latency": "50ms"}, "price": {"input": 0.15, "output": 0.6}}
    running = server(definitions(lm=slow, cooldown="3s"))
    look = Look(lambda: running.url)
    with World(lambda: running.url) as world:
        world.share_right(400)
        world.shift = SHIFT
        until(lambda: look.runs and look.runs[0]["progress"]["metric_calls"] > 20)
        assert running.command("compile", "triage", "--cancel").returncode == 0
        run = look.ended()
        assert (run["state"], run["variant"]) == ("cancelled", None)
        assert float(run["spent_usd"]) > 0
        until(lambda: look.alarms[-1]["closed_at"])
        assert look.alarms[-1]["closed_by"] == f"compile run {run['compile_id']} was cancelled"
        again = until(lambda: look.runs[0] if len(look.runs) > 1 else None)
        assert again["reason"] == "drift"
    assert (look.champion, look.experiments) == ("base", [])
