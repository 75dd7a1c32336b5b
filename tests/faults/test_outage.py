"""The database goes away under a running server: it says so before money is spent, and recovers by itself."""

import resource
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import httpx
import pytest
import sqlalchemy as sa

from tests.faults.provider import providing
from tests.postgres import Postgres
from tests.servers import RunningServer

DEFINITIONS = """
programs:
  triage:
    signature: "ticket: str -> category: Literal['billing', 'bug', 'how-to', 'other']"
    lm: {{model: mock/champion, api_base: "{url}", num_retries: 0}}
    timeout: 5s
    metrics:
      solved: {{kind: boolean}}
"""
CLIENTS = 6


class Load:
    """Clients that predict and report, in threads of their own, and what they were told."""

    def __init__(self, url: str) -> None:
        self.predictions: set[str] = set()
        self.outcomes: set[str] = set()
        self.refusals: list[httpx.Response] = []
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(CLIENTS)]

    def _work(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30, trust_env=False) as http:
            while not self._stop.is_set():
                answer = predict(http)
                if answer.status_code == 200:
                    self.predictions.add(prediction := answer.json()["prediction_id"])
                    answer = report(http, prediction)
                    if answer.status_code == 200:
                        self.outcomes.add(prediction)
                if answer.status_code != 200:
                    self.refusals.append(answer)
                    time.sleep(0.02)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def predict(http: httpx.Client) -> httpx.Response:
    body = {"input": {"ticket": "It crashed"}, "metadata": {"padding": "x" * 500}}
    return http.post("/v1/programs/triage/predict", json=body)


def report(http: httpx.Client, prediction: str) -> httpx.Response:
    said = {"prediction_id": prediction, "metric": "solved", "value": True}
    return http.post("/v1/outcomes", json={"outcomes": [said]})


def until(holds: Callable[[], bool], seconds: float = 40) -> None:
    """Wait for something that must come about."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def unready(http: httpx.Client) -> str:
    """What /health/ready says is wrong; empty when it is ready."""
    answer = http.get("/health/ready")
    details = [check["detail"] for check in answer.json()["checks"] if check["status"] == "failing"]
    assert (answer.status_code == 200) == (not details)
    return "; ".join(details)


def check_refusals(refusals: list[httpx.Response]) -> None:
    assert refusals
    for answer in refusals:
        assert (answer.status_code, answer.json()["type"]) == (503, "unavailable"), answer.text
        assert int(answer.headers["Retry-After"]) >= 1


def test_postgresql_stops_and_starts_again_under_load(tmp_path: Path, postgres: Postgres, postgres_url: str) -> None:
    with providing() as provider:
        definitions = tmp_path / "ratchet.yaml"
        definitions.write_text(DEFINITIONS.format(url=provider.url))
        at = {"RATCHET_DATABASE_URL": postgres_url}
        with RunningServer(tmp_path / "data", verb="serve", config=definitions, environment=at) as server:
            with server.client() as http, Load(server.url) as load:
                until(lambda: len(load.outcomes) > 100)
                postgres.stop()
                until(lambda: bool(unready(http)))
                assert "database" in unready(http)
                until(lambda: len(load.refusals) > 3 * CLIENTS)  # none is on its way to the model any more
                spent = provider.calls["champion"]
                assert predict(http).status_code == 503
                assert http.get("/health/live").status_code == 200
                assert provider.calls["champion"] == spent, "no model may be called while nothing can be recorded"
                postgres.start()
                until(lambda: not unready(http))
                recovered = len(load.outcomes)
                until(lambda: len(load.outcomes) > recovered + 100)
            assert server.stop() == 0
    check_refusals(load.refusals)
    compare(postgres_url, load)


def test_while_postgresql_hangs_no_model_is_called(tmp_path: Path, postgres: Postgres, postgres_url: str) -> None:
    with providing() as provider:
        definitions = tmp_path / "ratchet.yaml"
        definitions.write_text(DEFINITIONS.format(url=provider.url))
        at = {"RATCHET_DATABASE_URL": postgres_url}
        with RunningServer(tmp_path / "data", verb="serve", config=definitions, environment=at) as server:
            with server.client() as http, Load(server.url) as load:
                until(lambda: len(load.outcomes) > 20)
                with postgres.hanging():
                    time.sleep(6)
                    spent = provider.calls["champion"]
                    refused = predict(http)
                    assert provider.calls["champion"] == spent
                until(lambda: not unready(http))
                recovered = len(load.outcomes)
                until(lambda: len(load.outcomes) > recovered + 20)
            assert server.stop() == 0
    check_refusals([refused])
    assert "has not answered" in refused.json()["detail"]
    compare(postgres_url, load)


def compare(url: str, load: Load) -> None:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        predictions = set(connection.scalars(sa.text("SELECT prediction_id FROM predictions")))
        contents = set(connection.scalars(sa.text("SELECT prediction_id FROM contents")))
        outcomes = set(connection.scalars(sa.text("SELECT prediction_id FROM outcomes")))
    engine.dispose()
    assert load.predictions <= predictions
    assert load.outcomes <= outcomes <= predictions
    assert contents == predictions, "half a prediction was written"


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux can limit the files of a running process")
def test_a_full_disk_refuses_clearly_and_works_again_when_there_is_room(tmp_path: Path) -> None:
    with providing() as provider:
        definitions = tmp_path / "ratchet.yaml"
        definitions.write_text(DEFINITIONS.format(url=provider.url))
        talkative = {"RATCHET_LOG_LEVEL": "debug"}  # its log lies on the same disk
        with RunningServer(tmp_path / "data", config=definitions, environment=talkative) as server:
            database = tmp_path / "data" / "ratchet.db"
            with server.client() as http, Load(server.url) as load:
                until(lambda: len(load.outcomes) > 100)
                with no_room(server):
                    until(lambda: bool(unready(http)))
                    assert "disk" in unready(http)
                    until(lambda: len(load.refusals) > 3 * CLIENTS)
                    spent = provider.calls["champion"]
                    assert predict(http).status_code == 503
                    assert provider.calls["champion"] == spent
                until(lambda: not unready(http))
                recovered = len(load.outcomes)
                until(lambda: len(load.outcomes) > recovered + 100)
            assert server.stop() == 0
    check_refusals(load.refusals)
    compare(f"sqlite:///{database}", load)
    with sqlite3.connect(database) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


@contextmanager
def no_room(server: RunningServer) -> Iterator[None]:
    """No file of the server can grow any more."""
    _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))
