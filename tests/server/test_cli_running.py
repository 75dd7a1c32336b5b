"""`ratchet up` and its kind, as processes: how they start, refuse to, and end."""

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from server.cli.main import ratchet
from tests.servers import DEFINITIONS, RunningServer


def refusal(data: Path, *, config: Path | None = None, verb: str = "up", **environment: str) -> str:
    """What a server says that ends, refused, before it serves."""
    with pytest.raises(AssertionError) as ended:
        RunningServer(data, config=config, verb=verb, environment=environment)
    said = str(ended.value)
    assert said.startswith("the server ended with 1:"), said
    assert "Traceback" not in said
    return said


def verb(data: Path, *arguments: str, **environment: str) -> Result:
    """One verb in this process: for those that end before a server would begin."""
    settings = {"RATCHET_DATA": str(data), "RATCHET_PORT": "0", **environment}
    return CliRunner().invoke(ratchet, list(arguments), env=settings)


def test_up_says_where_it_is_and_takes_it_back_at_the_end(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data") as server:
        assert json.loads((tmp_path / "data" / "server.json").read_text())["pid"] == server.pid
        assert f"Ratchet is running at {server.url}" in server.log.read_text()
        server.stop()
    assert not (tmp_path / "data" / "server.json").exists()
    assert "Traceback" not in server.log.read_text()


def test_a_second_up_on_the_same_data_is_refused_naming_the_holder(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data") as server:
        database = f"sqlite:///{tmp_path / 'data' / 'ratchet.db'}"
        assert f"in use by process {server.pid}" in refusal(tmp_path / "other", RATCHET_DATABASE_URL=database)
        same = verb(tmp_path / "data", "up", "--port", str(server.port))
        assert same.exit_code == 1
        assert f"process {server.pid} serves the data" in same.stderr


def test_up_starts_again_after_kill_9(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data") as server:
        server.kill()
    assert "no running server" in verb(tmp_path / "data", "status").stderr
    with RunningServer(tmp_path / "data"):
        assert verb(tmp_path / "data", "status").exit_code == 0


def test_a_taken_port_is_named_with_a_free_one(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = verb(tmp_path / "data", "up", "--port", str(port))
    assert refused.exit_code == 1
    assert f"port {port} is taken" in refused.stderr
    assert "--port " in refused.stderr


def test_up_does_not_begin_on_a_bad_file(tmp_path: Path) -> None:
    config = tmp_path / "ratchet.yaml"
    config.write_text("programs:\n  triage: {signature: a -> b, lm: nope}\n")
    assert "ratchet.yaml:2:35: programs.triage.lm: model 'nope'" in refusal(tmp_path / "data", config=config)


def test_without_a_key_it_is_not_offered_to_the_network(tmp_path: Path) -> None:
    assert "no API key is defined" in refusal(tmp_path / "data", RATCHET_HOST="0.0.0.0")  # noqa: S104 -- refused


def test_up_goes_on_with_the_last_good_definitions_when_the_file_is_bad(tmp_path: Path) -> None:
    config = tmp_path / "ratchet.yaml"
    config.write_text(DEFINITIONS)
    with RunningServer(tmp_path / "data", config=config) as server:
        server.stop()
    config.write_text("programs: [")
    with RunningServer(tmp_path / "data", config=config) as server:
        told = verb(tmp_path / "data", "status", "--json")
        assert [program["name"] for program in json.loads(told.stdout)["programs"]] == ["triage"]
        assert "definitions_refused" in server.log.read_text()


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["up"], {"RATCHET_TICK": "soon"}, "RATCHET_TICK: 'soon' is not a duration"),
        (["up"], {"RATCHET_DATABASE_URL": "postgresql+psycopg://h/d"}, "use `ratchet serve`"),
        (["up", "--host", "no.such.host.invalid"], {}, "is no address of this machine"),
    ],
)
def test_what_keeps_a_server_from_starting_is_said_in_a_sentence(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], said: str
) -> None:
    refused = verb(tmp_path / "data", *arguments, **environment)
    assert refused.exit_code == 1
    assert said in refused.stderr


def test_serve_wants_the_tables_that_migrate_makes(tmp_path: Path) -> None:
    assert "run `ratchet migrate`" in refusal(tmp_path / "data", verb="serve")
    assert json.loads(verb(tmp_path / "data", "migrate", "--json").stdout)["migrated"] is True
    with RunningServer(tmp_path / "data", verb="serve"):
        assert verb(tmp_path / "data", "status").exit_code == 0


def test_the_first_key_is_made_without_a_server_and_then_needed(tmp_path: Path) -> None:
    made = json.loads(verb(tmp_path / "data", "keys", "create", "me", "--scope", "admin", "--json").stdout)
    with RunningServer(tmp_path / "data"):
        refused = verb(tmp_path / "data", "status")
        assert refused.exit_code == 1
        assert "RATCHET_API_KEY" in refused.stderr
        mine = {"RATCHET_API_KEY": made["secret"]}
        assert verb(tmp_path / "data", "status", **mine).exit_code == 0
        second = json.loads(
            verb(tmp_path / "data", "keys", "create", "app", "--scope", "predict", "--json", **mine).stdout
        )
        assert verb(tmp_path / "data", "keys", "revoke", second["key"]["key_id"], **mine).exit_code == 0
        listed = verb(tmp_path / "data", "keys", "list", **mine).stdout
        assert "app" in listed
        assert made["secret"] not in listed


def test_work_shows_its_health_and_metrics_and_serves_nothing(tmp_path: Path) -> None:
    assert "run `ratchet migrate`" in refusal(tmp_path / "data", verb="work")
    verb(tmp_path / "data", "migrate")
    with RunningServer(tmp_path / "data", verb="work") as worker:
        with worker.client() as http:
            assert http.get("/health/ready").status_code == 200
            assert "\nratchet_leader 1.0" in http.get("/metrics").text
            nothing = http.get("/v1/programs")
            assert (nothing.status_code, nothing.json()["type"]) == (404, "not-found")
        assert "no running server is known" in verb(tmp_path / "data", "status").stderr
        database = f"sqlite:///{tmp_path / 'data' / 'ratchet.db'}"
        refused = refusal(tmp_path / "other", verb="serve", RATCHET_DATABASE_URL=database)
        assert f"in use by process {worker.pid}" in refused
        assert worker.stop() == 0


def test_serve_alone_leads_nothing_and_says_so(tmp_path: Path) -> None:
    verb(tmp_path / "data", "migrate")
    with RunningServer(tmp_path / "data", verb="serve"):
        assert json.loads(verb(tmp_path / "data", "status", "--json").stdout)["leader"] is None
        assert "`ratchet work`" in verb(tmp_path / "data", "status").stdout
        assert "run `ratchet work`" in verb(tmp_path / "data", "doctor").stdout


def test_up_leads_at_once_after_kill_9(tmp_path: Path) -> None:
    patient = {"RATCHET_LEASE": "10m"}
    with RunningServer(tmp_path / "data", environment=patient) as server:
        server.kill()
    with RunningServer(tmp_path / "data", environment=patient) as server:
        leader = json.loads(verb(tmp_path / "data", "status", "--json").stdout)["leader"]
        assert leader.endswith(f"/{server.pid}")
