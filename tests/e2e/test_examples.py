"""The examples as a newcomer meets them: checked as they are, and played by the demo from beginning to end."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.servers import command

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("definitions", sorted(EXAMPLES.glob("*/ratchet.yaml")), ids=lambda path: path.parent.name)
def test_every_example_passes_the_check(definitions: Path) -> None:
    found = command("check", str(definitions), environment={})
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.timeout(300)
def test_the_demo_promotes_the_better_instruction_on_the_simulated_model(tmp_path: Path) -> None:
    told, data = play(tmp_path, "sim")
    assert told["experiment"]["verdict"] == "promote"
    assert told["promotion"] == {"from": "base", "to": "careful"}
    assert told["accuracy"]["after"] > told["accuracy"]["before"] + 0.1
    assert "SIMULATED" in told["lm"]
    assert_replayed(data, told["experiment"]["experiment_id"])


@pytest.mark.timeout(900)
@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="the extra local-lm is not installed")
def test_the_demo_finds_the_better_wording_on_real_reviews_with_a_real_model(tmp_path: Path) -> None:
    told, data = play(tmp_path, "local")
    assert told["experiment"]["verdict"] == "promote"
    assert told["promotion"] == {"from": "base", "to": "reworded"}
    assert_replayed(data, told["experiment"]["experiment_id"])


def play(folder: Path, lm: str) -> tuple[dict[str, Any], Path]:
    """What `ratchet demo` says it has done, and where its data is."""
    data = folder / "data"
    settings = {"RATCHET_DATA": str(data), "RATCHET_PORT": "0"}
    done = command("demo", "--lm", lm, "--once", "--json", environment=settings, seconds=800)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["closed"]
    return told, data


def assert_replayed(data: Path, experiment: str) -> None:
    """The decision derives again from the raw rows the demo left behind."""
    replayed = command("replay", experiment, "--json", environment={"RATCHET_DATA": str(data)})
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert json.loads(replayed.stdout)["decisions"] >= 1
