"""Told to stop, and one server at a time on a database."""

import asyncio
import signal
import sqlite3
from collections.abc import Awaitable
from pathlib import Path

import httpx
import pytest

from tests.servers import DEFINITIONS, RunningServer, command

SLOW = DEFINITIONS.replace("price:", "options: {latency: 2, jitter: 0}, price:")

UNDER_WAY = 8


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """Definitions whose language model takes two seconds."""
    path = tmp_path / "slow.yaml"
    path.write_text(SLOW)
    return path


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]])
def test_a_server_told_to_stop_finishes_what_is_under_way(
    tmp_path: Path, slow: Path, signals: list[signal.Signals]
) -> None:
    with RunningServer(tmp_path / "data", config=slow) as server:
        answers = asyncio.run(_stopped_under_way(server, signals))
        assert server.wait() == 0
    told = {answer.json()["prediction_id"] for answer in answers if isinstance(answer, httpx.Response)}
    assert len(told) == len(answers) == UNDER_WAY
    assert stored(server) == told
    assert not (tmp_path / "data" / "server.json").exists()


def test_a_second_ctrl_c_ends_it_at_once_and_loses_nothing_acknowledged(tmp_path: Path, slow: Path) -> None:
    slow.write_text(SLOW.replace("latency: 2", "latency: 4"))
    with RunningServer(tmp_path / "data", config=slow) as server:
        with server.client() as http:
            told = http.post("/v1/programs/triage/predict", json={"input": {"ticket": "a refund"}}).json()
        answers = asyncio.run(_stopped_under_way(server, [signal.SIGINT, signal.SIGINT]))
        assert server.wait() == 128 + signal.SIGINT
    assert all(isinstance(answer, httpx.TransportError) for answer in answers)
    assert told["prediction_id"] in stored(server)
    with RunningServer(tmp_path / "data", config=slow) as server, server.client() as http:
        assert http.get("/health/ready").status_code == 200


async def _stopped_under_way(
    server: RunningServer, signals: list[signal.Signals]
) -> list[httpx.Response | BaseException]:
    """The answers to predictions that were under way when the signals came, or what came in their place."""
    async with httpx.AsyncClient(base_url=server.url, timeout=30, trust_env=False) as http:

        def predict(number: int) -> Awaitable[httpx.Response]:
            body = {"input": {"ticket": f"ticket {number}: please refund my invoice"}}
            return http.post("/v1/programs/triage/predict", json=body)

        asked = [asyncio.ensure_future(predict(number)) for number in range(UNDER_WAY)]
        await asyncio.sleep(1)
        for number in signals:
            server.send(number)
            await asyncio.sleep(0.3)
        with pytest.raises(httpx.TransportError):
            await predict(UNDER_WAY)  # no new request is taken
        return await asyncio.gather(*asked, return_exceptions=True)


def stored(server: RunningServer) -> set[str]:
    with sqlite3.connect(Path(server.environment["RATCHET_DATA"]) / "ratchet.db") as connection:
        found = {row[0] for row in connection.execute("SELECT prediction_id FROM predictions")}
    connection.close()
    return found


def test_a_second_server_on_the_same_data_is_refused_and_told_who_holds_it(tmp_path: Path, slow: Path) -> None:
    with RunningServer(tmp_path / "data", config=slow) as server:
        second = server.command("up", "--config", str(slow))
        assert second.returncode == 1
        assert f"process {server.pid} on " in second.stderr
        assert "stop that server first" in second.stderr
        with server.client() as http:
            assert http.get("/health/ready").status_code == 200
        assert server.command("status").returncode == 0, "the refused one must not have taken the holder's place"


def test_a_holder_that_was_killed_holds_nothing(tmp_path: Path, slow: Path) -> None:
    with RunningServer(tmp_path / "data", config=slow) as server:
        server.kill()
    gone = command("status", environment=server.environment)
    assert (gone.returncode, "no running server" in gone.stderr) == (1, True)
    with RunningServer(tmp_path / "data", config=slow) as server, server.client() as http:
        assert http.get("/health/ready").status_code == 200
