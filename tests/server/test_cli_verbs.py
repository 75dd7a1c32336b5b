"""The verbs, against a real server that they find by themselves."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from server.cli.experiments import print_report
from server.cli.main import ratchet
from server.presence import announce, present, withdraw
from tests.servers import DEFINITIONS, RunningServer

Verb = Callable[..., Result]
SHARPER = DEFINITIONS.replace("Classify the support ticket.", "Say what the customer wants.")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for all of this file, with definitions in force."""
    directory = tmp_path_factory.mktemp("cli")
    config = directory / "ratchet.yaml"
    config.write_text(DEFINITIONS)
    with RunningServer(directory / "data", config=config) as running:
        yield running


@pytest.fixture
def verb(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Verb:
    """Runs one verb, the way somebody on the server's machine would."""
    monkeypatch.setenv("RATCHET_DATA", str(server.log.parent))
    monkeypatch.delenv("RATCHET_URL", raising=False)
    return lambda *arguments: CliRunner().invoke(ratchet, list(arguments))


def answered(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def experiment(verb: Verb, server: RunningServer) -> Iterator[str]:
    """A running experiment of `terse` against `base`; stopped afterwards."""
    httpx.post(
        f"{server.url}/v1/programs/triage/variants",
        json={"name": "terse", "instructions": "Be terse."},
        trust_env=False,
    ).raise_for_status()
    made = answered(verb("experiments", "create", "triage", "terse", "-o", "min_effect=0.2", "--start", "--json"))
    assert made["state"] == "running"
    yield made["experiment_id"]
    verb("experiments", "stop", made["experiment_id"], "-m", "the test is over")


def test_status_tells_what_every_variant_did_of_late(verb: Verb, server: RunningServer) -> None:
    with server.client() as http:
        made = http.post("/v1/programs/triage/predict", json={"input": {"ticket": "I want a refund"}}).json()
        said = {"prediction_id": made["prediction_id"], "label": {"category": made["output"]["category"]}}
        http.post("/v1/outcomes", json={"outcomes": [said]})
    (base,) = answered(verb("status", "--json", "--window", "1h"))["figures"]["triage"]["variants"]
    assert base["predictions"] >= 1
    assert base["latency_ms"]["p99"] > 0
    assert base["scores"]["correct"]["n"] >= 1
    assert base["cost_per_correct_usd"] is not None
    shown = " ".join(verb("status", "--window", "1h").stdout.split())
    assert "The last 1h" in shown
    for expected in ("p50 p95 p99", "triage base", " ms ", "correct 1 (", "$"):
        assert expected in shown, expected
    assert "window" in verb("status", "--window", "soon").stderr


def test_status_shows_what_is_served(verb: Verb, server: RunningServer) -> None:
    told = answered(verb("status", "--json"))
    assert told["url"] == server.url
    assert [(p["name"], p["champion"]) for p in told["programs"]] == [("triage", "base")]
    shown = verb("status").stdout
    assert "triage" in shown
    assert "base 100%" in shown


def test_diff_says_what_follows_and_changes_nothing(verb: Verb, tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    file.write_text(SHARPER)
    (change,) = answered(verb("diff", str(file), "--json"))["changes"]
    assert change["key"] == "instructions"
    assert "off traffic" in verb("diff", str(file)).stdout
    assert len(answered(verb("diff", str(file), "--json"))["changes"]) == 1


def test_apply_refuses_a_bad_file_with_every_error(verb: Verb, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("programs:\n  a: {signature: x -> y, lm: nope}\n  b: 1\n")
    result = verb("apply", str(file))
    assert result.exit_code == 1
    assert "bad.yaml:2:30: programs.a.lm: model 'nope'" in result.stderr
    assert "bad.yaml:3:6: programs.b: 1 is not a mapping" in result.stderr


def test_an_experiment_goes_through_its_life(verb: Verb, experiment: str) -> None:
    assert experiment in verb("experiments", "list").stdout
    assert answered(verb("experiments", "pause", experiment, "-m", "tea", "--json"))["state"] == "paused"
    assert "running" in verb("experiments", "resume", experiment, "-m", "back").stdout
    shown = verb("experiments", "show", experiment)
    assert shown.exit_code == 0, shown.stderr
    assert "champion" in shown.stdout
    assert "terse" in shown.stdout
    promoted = answered(verb("experiments", "promote", experiment, "-m", "better", "--json"))
    assert promoted["verdict"] == "promote"
    rolled = answered(verb("experiments", "rollback", experiment, "-m", "worse after all", "--json"))
    assert rolled["rolled_back"] is True
    again = verb("experiments", "rollback", experiment, "-m", "again")
    assert again.exit_code == 1
    assert "no promotion to take back" in again.stderr


def test_an_a_a_experiment_needs_no_challenger(verb: Verb) -> None:
    made = answered(verb("experiments", "create", "triage", "--aa", "--json"))
    assert [arm["variant"] for arm in made["arms"]] == ["base", "base-aa"]
    assert "start" in verb("experiments", "create", "triage", "--aa").stdout


def test_a_slip_is_answered_with_the_nearest_name(verb: Verb) -> None:
    variant = verb("experiments", "create", "triage", "bsae")
    assert variant.exit_code == 1
    assert "did you mean 'base'" in variant.stderr
    key = verb("experiments", "create", "triage", "base", "--set", "min_efect=0.1")
    assert "did you mean 'min_effect'" in key.stderr


def test_a_misused_verb_exits_with_two(verb: Verb) -> None:
    for arguments in (
        ["nope"],
        ["experiments", "stop", "x"],
        ["experiments", "create", "triage", "-o", "alpha"],
        ["up", "--port", "x"],
    ):
        assert verb(*arguments).exit_code == 2, arguments


def test_replay_agrees_with_what_was_decided(verb: Verb, experiment: str) -> None:
    verb("experiments", "stop", experiment, "-m", "enough")
    replayed = answered(verb("replay", experiment, "--json"))
    assert replayed["experiment_id"] == experiment
    assert replayed["differences"] == []
    assert verb("replay", "no-such-id").exit_code == 1


def test_a_report_is_drawn_with_better_on_the_right_whatever_the_direction(verb: Verb, experiment: str) -> None:
    report = answered(verb("experiments", "show", experiment, "--json"))
    interval = {"lower": 0.2, "upper": 0.4, "level": 0.9}
    for direction, ahead in (("higher", True), ("lower", False)):
        report["comparisons"][0] |= {"direction": direction, "estimate": 0.3, "interval": interval}
        console = Console(width=200, record=True, file=io.StringIO())
        print_report(console, {**report, "reason": "an operator's [/words] are no markup"})
        shown = console.export_text()
        (line,) = [line for line in shown.splitlines() if "├" in line]
        assert (line.index("●") > line.index("│")) is ahead
        assert "[/words]" in shown


def test_freeze_is_seen_until_unfreeze(verb: Verb) -> None:
    assert verb("freeze", "-m", "at night").exit_code == 0
    assert "Frozen since" in verb("status").stdout
    assert verb("unfreeze", "-m", "morning").exit_code == 0
    assert answered(verb("status", "--json"))["frozen"] is None


def test_doctor_finds_a_serving_machine_healthy(verb: Verb, server: RunningServer) -> None:
    found = answered(verb("doctor", "--json"))
    checks = {check["name"]: check for check in found["checks"]}
    assert found["healthy"] is True
    assert server.url in checks["port"]["found"]
    assert "held by the server" in checks["holder"]["found"]


def test_doctor_names_the_cure(verb: Verb, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("programs: [")
    monkeypatch.setenv("RATCHET_CONFIG", str(file))
    result = verb("doctor")
    assert result.exit_code == 1
    assert "bad.yaml:1:12" in result.stdout
    monkeypatch.setenv("RATCHET_PORT", "x")
    assert "is not a port" in verb("doctor").stdout


def test_without_a_server_a_verb_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RATCHET_DATA", str(tmp_path))
    result = CliRunner().invoke(ratchet, ["status"])
    assert result.exit_code == 1
    assert "ratchet up" in result.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nonsense", "http://[", "ftp://x"])
def test_a_url_where_nobody_answers_is_named(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("RATCHET_URL", url)
    result = CliRunner().invoke(ratchet, ["status"])
    assert result.exit_code == 1
    assert url in result.stderr


def test_what_a_dead_server_left_behind_is_no_server(tmp_path: Path) -> None:
    announce(tmp_path, "http://127.0.0.1:1")
    assert present(tmp_path) is not None
    withdraw(tmp_path)
    assert present(tmp_path) is None
    for left in (
        '{"url": "http://127.0.0.1:1", "pid": 4000000}',
        "{",
        '{"url": 1}',
        '{"url": "x", "pid": -99999999999}',
    ):
        (tmp_path / "server.json").write_text(left)
        assert present(tmp_path) is None
        withdraw(tmp_path)
        assert (tmp_path / "server.json").exists()


def test_check_needs_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ratchet.yaml").write_text(DEFINITIONS)
    assert "is valid: 1 program (triage)" in CliRunner().invoke(ratchet, ["check"]).stdout
    (tmp_path / "ratchet.yaml").write_text("programs:\n  a: 1\n")
    bad = CliRunner().invoke(ratchet, ["check", "--json"])
    assert bad.exit_code == 1
    assert json.loads(bad.stdout)["errors"][0]["pointer"] == "/programs/a"
    assert "ratchet.yaml:2:6: programs.a: 1 is not a mapping" in bad.stderr
    assert json.loads(CliRunner().invoke(ratchet, ["check", "--schema"]).stdout)["title"] == "ratchet.yaml"


def test_simulate_tells_what_an_experiment_would_take(verb: Verb) -> None:
    told = verb("simulate", "triage", "-u", "5000", "-b", "correct=0.7", "-o", "min_effect=0.1")
    assert told.exit_code == 0, told.stderr
    assert "Better by the minimum effect: promoted in" in told.stdout
    plan = answered(verb("simulate", "triage", "-u", "5000", "-b", "correct=0.7", "-o", "min_effect=0.1", "--json"))
    assert [scenario["effect"] for scenario in plan["scenarios"]] == [-0.1, 0.0, 0.1, 0.2]
    pairs = verb("simulate", "triage", "-u", "5000", "-b", "correct=0.7", "-o", "pairs=true", "--agreement", "0.9")
    assert "assumed correct 0.7, agreement 0.9" in " ".join(pairs.stdout.split())
    assert verb("simulate", "triage", "-u", "0", "-b", "correct=0.7").exit_code == 1
    assert verb("simulate", "triage").exit_code == 2


def test_a_key_is_not_sent_to_another_machine_that_a_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(tmp_path, "http://192.0.2.1:8000")
    monkeypatch.setenv("RATCHET_DATA", str(tmp_path))
    monkeypatch.setenv("RATCHET_API_KEY", "secret")
    monkeypatch.delenv("RATCHET_URL", raising=False)
    refused = CliRunner().invoke(ratchet, ["status"])
    assert refused.exit_code == 1
    assert "set RATCHET_URL=http://192.0.2.1:8000" in refused.stderr
    assert "secret" not in refused.stderr
