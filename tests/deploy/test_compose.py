"""The compose stack as far as it can be seen without a container engine: sound, whole, and its parts do work."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.desk import until
from tests.prometheus import promtool
from tests.servers import DEFINITIONS, RunningServer

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy/compose.yaml"
STACK: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())


def said_by(module: str, *arguments: str | Path) -> str:
    """What a program of ours says when it finds nothing wrong."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_file_is_what_compose_takes() -> None:
    said_by("check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_every_yaml_that_others_read_is_clean() -> None:
    said_by("yamllint", "--strict", "deploy", "monitoring")


def test_what_is_mounted_is_in_the_repository() -> None:
    for name, service in STACK["services"].items():
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            if source.startswith("."):
                assert (COMPOSE.parent / source).exists(), f"{name}: {source}"
            else:
                assert source in STACK["volumes"], f"{name}: {source}"
    assert (COMPOSE.parent / STACK["services"]["server"]["build"]["context"] / "Dockerfile").exists()


def test_images_are_pinned_and_ports_are_open_to_this_machine_alone() -> None:
    for name, service in STACK["services"].items():
        assert service["image"].partition(":")[2] not in {"", "latest"}, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_the_verbs_that_services_run_exist() -> None:
    from server.cli.main import ratchet  # noqa: PLC0415 -- slow to import

    for service in STACK["services"].values():
        command = service.get("command", [])
        if command[:1] == ["ratchet"]:
            assert command[1] in ratchet.commands


def test_prometheus_scrapes_every_process_and_reads_our_rules() -> None:
    written = ROOT / "deploy/prometheus/prometheus.yaml"
    promtool("check", "config", "--syntax-only", written)
    targets = yaml.safe_load(written.read_text())["scrape_configs"][0]["static_configs"][0]["targets"]
    ours = {
        name for name, service in STACK["services"].items() if service.get("command", [])[1:2] in (["serve"], ["work"])
    }
    assert {target.partition(":")[0] for target in targets} == ours
    mounts = dict(mount.split(":")[1::-1] for mount in STACK["services"]["prometheus"]["volumes"])
    for file in yaml.safe_load(written.read_text())["rule_files"]:
        assert mounts[file].endswith("monitoring/prometheus/rules.yaml")


def test_grafana_finds_its_data_source_and_its_dashboards() -> None:
    provisioning = ROOT / "monitoring/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    assert source["isDefault"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards/ratchet.yaml").read_text())["providers"]
    mounts = dict(mount.split(":")[1::-1] for mount in STACK["services"]["grafana"]["volumes"])
    assert len(list((COMPOSE.parent / mounts[provider["options"]["path"]]).glob("*.json"))) == 3


@pytest.fixture
def keyed(tmp_path: Path) -> Any:
    """A server with a key, and the file that holds it."""
    definitions, key = tmp_path / "ratchet.yaml", tmp_path / "key"
    definitions.write_text(DEFINITIONS)
    with RunningServer(tmp_path / "data", config=definitions) as server:
        with server.client() as http:
            made = http.post("/v1/keys", json={"name": "compose", "scopes": ["admin", "predict", "outcomes"]})
        key.write_text(made.json()["secret"] + "\n")
        yield server, key


def test_the_traffic_of_the_demo_profile_is_answered_and_judged(keyed: Any) -> None:
    server, key = keyed
    traffic = subprocess.Popen(
        [sys.executable, ROOT / "deploy/traffic.py", server.url, str(key), "0.5"],
        cwd=ROOT,
        env=server.environment | {"PYTHONPATH": str(ROOT)},
    )
    try:
        with server.client() as http:
            http.headers["Authorization"] = f"Bearer {key.read_text().strip()}"

            def judged() -> bool:
                figures = http.get("/v1/programs/triage/analytics").json()["variants"]
                return bool(figures) and figures[0]["scores"].get("correct", {"n": 0})["n"] >= 40

            assert until(judged, seconds=30)
    finally:
        traffic.terminate()
        traffic.wait(30)
