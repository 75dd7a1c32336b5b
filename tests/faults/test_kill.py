"""kill -9 under load: whatever was acknowledged is there, once; what was not may be tried again and is there once too."""

import asyncio
import json
import random
import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest

from tests.servers import DEFINITIONS, RunningServer, post

KILLS = 25
CLIENTS = 12


class Client:
    """One application: predicts under an idempotency key of its own, reports an outcome, and tries again until told."""

    def __init__(self, name: int) -> None:
        self.name = name
        self.done = 0
        self.predictions: dict[str, str] = {}
        self.outcomes: dict[str, bool] = {}
        self.pending_outcome: str | None = None

    async def work(self, port: int, stop: asyncio.Event) -> None:
        """Go on until told to stop, or until the server is gone."""
        with suppress(OSError, EOFError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                while not stop.is_set():
                    await self._predict(reader, writer)
                    await self._report(reader, writer)
            finally:
                writer.close()

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


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_acknowledged_is_lost_or_doubled_over_kills(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    clients = [Client(number) for number in range(CLIENTS)]
    definitions = tmp_path / "ratchet.yaml"
    definitions.write_text(DEFINITIONS)
    data = tmp_path / "data"
    for _ in range(KILLS):
        with RunningServer(data, config=definitions) as server:
            asyncio.run(_load_until_killed(server, clients, chance.uniform(0.05, 0.5)))
    with RunningServer(data, config=definitions) as server:
        asyncio.run(_load(server, clients, seconds=0.5))
        server.stop()
    _compare(data / "ratchet.db", clients)


async def _load_until_killed(server: RunningServer, clients: list[Client], seconds: float) -> None:
    stop = asyncio.Event()
    working = [asyncio.create_task(client.work(server.port, stop)) for client in clients]
    await asyncio.sleep(seconds)
    server.kill()
    await asyncio.gather(*working)


async def _load(server: RunningServer, clients: list[Client], seconds: float) -> None:
    stop = asyncio.Event()
    working = [asyncio.create_task(client.work(server.port, stop)) for client in clients]
    await asyncio.sleep(seconds)
    stop.set()
    await asyncio.gather(*working)


def _compare(database: Path, clients: list[Client]) -> None:
    """What the clients were told, beside what is on disk."""
    with sqlite3.connect(database) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        stored = [row[0] for row in connection.execute("SELECT prediction_id FROM predictions")]
        content = {row[0] for row in connection.execute("SELECT prediction_id FROM contents")}
        outcomes = {row[0]: row[1] for row in connection.execute("SELECT prediction_id, value FROM outcomes")}
        answers = connection.execute("SELECT key, answer FROM idempotency WHERE answer IS NOT NULL").fetchall()
    told = {key: prediction for client in clients for key, prediction in client.predictions.items()}
    assert len(told) > 20 * KILLS, "too little load to prove anything"
    assert set(told.values()) <= set(stored)
    assert content == set(stored)
    kept = {key: json.loads(answer) for key, answer in answers}
    assert len(stored) == len(kept), "one prediction per key, however often its call was repeated"
    assert len(set(stored)) == len(stored)
    expected = {prediction: float(value) for client in clients for prediction, value in client.outcomes.items()}
    assert {prediction: outcomes.get(prediction) for prediction in expected} == expected
