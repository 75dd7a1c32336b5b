"""kill -9 under load: what was acknowledged is there, once; what was not may be tried again and is there once too."""

import asyncio
import json
import random
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.servers import DEFINITIONS, RunningServer, post

KILLS = 25
KILLS_ON_POSTGRES = 6
CLIENTS = 12
LEAST = 20
"""Predictions acknowledged in each round, at least; with fewer, a kill proves little."""


class Client:
    """One application: predicts under an idempotency key of its own, reports an outcome, and tries again until told.

    A `fickle` one asks something new after its server died: on a database that others may share, a dead server's keys
    stay reserved until their leases run out.
    """

    def __init__(self, name: int, *, fickle: bool = False) -> None:
        self.name = name
        self.fickle = fickle
        self.done = 0
        self.predictions: dict[str, str] = {}
        self.outcomes: dict[str, bool] = {}
        self.pending_outcome: str | None = None

    async def work(self, port: int, stop: asyncio.Event) -> None:
        """Go on until told to stop, or until the server is gone."""
        with suppress(OSError, EOFError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                while not stop.is_set():
                    await self._predict(reader, writer)
                    await self._report(reader, writer)
            finally:
                writer.close()
        self.done += self.fickle

    async def _predict(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.pending_outcome is not None:
            return
        key = f"{self.name}-{self.done}"
        body = {"input": {"ticket": f"ticket {key}: please refund my invoice"}, "unit": f"user-{self.name}"}
        status, answer = await post(reader, writer, "/v1/programs/triage/predict", body, {"Idempotency-Key": key})
        assert status == 200, answer
        self.predictions[key] = self.pending_outcome = answer["prediction_id"]
        self.done += 1

    async def _report(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        prediction = self.pending_outcome
        assert prediction is not None
        value = hash(prediction) % 2 == 0
        body = {"outcomes": [{"prediction_id": prediction, "metric": "solved", "value": value}]}
        status, answer = await post(reader, writer, "/v1/outcomes", body)
        assert status == 200, answer
        assert answer["results"][0]["status"] in ("accepted", "duplicate"), answer
        self.outcomes[prediction] = value
        self.pending_outcome = None


@pytest.fixture
def definitions(tmp_path: Path) -> Path:
    path = tmp_path / "ratchet.yaml"
    path.write_text(DEFINITIONS)
    return path


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_acknowledged_is_lost_or_doubled_over_kills(tmp_path: Path, definitions: Path, seed: int) -> None:
    chance = random.Random(seed)
    clients = [Client(number) for number in range(CLIENTS)]
    data = tmp_path / "data"
    for _ in range(KILLS):
        with RunningServer(data, config=definitions) as server:
            asyncio.run(_load(server, clients, chance.uniform(0.05, 0.5), kill=True))
    with RunningServer(data, config=definitions) as server:
        asyncio.run(_load(server, clients, 0.5))
        assert server.stop() == 0
    _compare(f"sqlite:///{data / 'ratchet.db'}", clients)


@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost_over_kills_on_postgres(
    tmp_path: Path, definitions: Path, postgres_url: str
) -> None:
    chance = random.Random(3)
    clients = [Client(number, fickle=True) for number in range(CLIENTS)]
    at = {"RATCHET_DATABASE_URL": postgres_url}
    for _ in range(KILLS_ON_POSTGRES):
        with RunningServer(tmp_path / "data", verb="serve", config=definitions, environment=at) as server:
            asyncio.run(_load(server, clients, chance.uniform(0.2, 0.6), kill=True))
    with RunningServer(tmp_path / "data", verb="serve", config=definitions, environment=at) as server:
        asyncio.run(_load(server, clients, 0.5))
        assert server.stop() == 0
    _compare(postgres_url, clients)


async def _load(server: RunningServer, clients: list[Client], seconds: float, *, kill: bool = False) -> None:
    """Load for some seconds, and on a busy machine for as long as it takes to be a load."""
    stop = asyncio.Event()
    enough = _told(clients) + LEAST
    working = [asyncio.create_task(client.work(server.port, stop)) for client in clients]
    await asyncio.sleep(seconds)
    while _told(clients) < enough and not all(task.done() for task in working):
        await asyncio.sleep(0.01)
    if kill:
        server.kill()
    stop.set()
    await asyncio.gather(*working)
    assert _told(clients) >= enough


def _told(clients: list[Client]) -> int:
    return sum(len(client.predictions) for client in clients)


def _compare(url: str, clients: list[Client]) -> None:
    """What the clients were told, beside what is on disk."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        stored = connection.scalars(sa.text("SELECT prediction_id FROM predictions")).all()
        contents = connection.scalars(sa.text("SELECT prediction_id FROM contents")).all()
        outcomes = {row[0]: row[1] for row in connection.execute(sa.text("SELECT prediction_id, value FROM outcomes"))}
        answers = connection.scalars(sa.text("SELECT answer FROM idempotency WHERE answer IS NOT NULL")).all()
    engine.dispose()
    told = {key: prediction for client in clients for key, prediction in client.predictions.items()}
    assert set(told.values()) <= set(stored)
    assert sorted(contents) == sorted(stored)
    kept = [json.loads(answer)["prediction_id"] for answer in answers]
    assert sorted(kept) == sorted(stored), "one prediction per key, however often its call was repeated"
    expected = {prediction: float(value) for client in clients for prediction, value in client.outcomes.items()}
    assert {prediction: outcomes.get(prediction) for prediction in expected} == expected
