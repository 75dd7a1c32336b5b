"""What serving costs: Ratchet on SQLite and on PostgreSQL, beside bare DSPy and beside FastAPI, in one run.

    make bench-serving [ARGS="--seconds 6 --memory 100000"]

Every system answers the same DSPy program through the same mock language model, at 0, 50 and 1,000 ms and with 1, 32
and 128 clients, one after the other in each cell, so that a change of the machine's mood meets them all. Ratchet
assigns and commits every prediction before it answers; the rows are counted at the last answer, without waiting. Then
the memory over many predictions, and an outcome reported right after its prediction beside single durable commits.
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

import psutil

from benchmarks import _load as load
from benchmarks._postgres import postgres

DELAYS = (0.0, 0.05, 1.0)
CLIENTS = (1, 32, 128)
DEFINITIONS = """
programs:
  triage:
    signature: "text: str -> label: str" lm: {{model: mock/mock, api_base: "http://127.0.0.1:{port}/v1", price: {{input:
    1, output: 2}}, max_concurrency: 512}} metrics:
      correct: {{kind: boolean, role: goal}}
"""


def main() -> None:
    """Run everything and print one JSON object per measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="length of one measurement")
    parser.add_argument("--memory", type=int, default=100_000, help="predictions of the memory measurement")
    options = parser.parse_args()
    emit(benchmark="serving", machine=platform.platform(), cpus=os.cpu_count(), python=platform.python_version())
    with tempfile.TemporaryDirectory() as folder, process("-m", "benchmarks._mock_lm") as lm, postgres() as url:
        lm_port = first_line(lm)
        definitions = Path(folder, "ratchet.yaml")
        definitions.write_text(DEFINITIONS.format(port=lm_port))
        sqlite = Path(folder, "sqlite")
        with (
            process("-m", "benchmarks._rivals", "fastapi", str(lm_port)) as fastapi,
            ratchet(definitions, sqlite, f"sqlite:///{sqlite}/ratchet.db") as on_sqlite,
            ratchet(definitions, Path(folder, "postgres"), url) as on_postgres,
        ):
            ports = {"fastapi": first_line(fastapi), "ratchet-sqlite": on_sqlite[1], "ratchet-postgres": on_postgres[1]}
            servers = {"fastapi": fastapi, "ratchet-sqlite": on_sqlite[0], "ratchet-postgres": on_postgres[0]}
            for delay in DELAYS:
                asyncio.run(set_delay(lm_port, delay))
                for clients in CLIENTS:
                    cell(delay, clients, options.seconds, lm_port, ports, servers)
            asyncio.run(set_delay(lm_port, 0.0))
            outcomes(ports["ratchet-sqlite"], folder)
            rows(ports["ratchet-sqlite"], sqlite / "ratchet.db")
            memory(ports["ratchet-sqlite"], servers["ratchet-sqlite"], options.memory)


def cell(
    delay: float,
    clients: int,
    seconds: float,
    lm_port: int,
    ports: dict[str, int],
    servers: dict[str, subprocess.Popen[str]],
) -> None:
    """One delay and number of clients, every system in turn, then the ratios."""
    about = {"lm_ms": delay * 1000, "clients": clients}
    asked = [sys.executable, "-m", "benchmarks._rivals", "bare", str(lm_port), str(clients), str(seconds)]
    bare = json.loads(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)
    found = {"bare": bare}
    emit(system="bare", **about, **bare)
    for system, port in ports.items():
        path = "/predict" if system == "fastapi" else "/v1/programs/triage/predict"
        found[system] = measure(servers[system], port, path, clients, seconds)
        emit(system=system, **about, **found[system])
    for system in ("ratchet-sqlite", "ratchet-postgres"):
        emit(
            ratio=f"{system} / fastapi",
            **about,
            **{
                key: round(found[system][key] / found["fastapi"][key], 2)
                for key in ("requests_per_s", "p99_ms", "cpu_s_per_1000")
            },
        )


def measure(
    server: subprocess.Popen[str], port: int, path: str, clients: int, seconds: float
) -> dict[str, Any]:
    """A load on a server, after a short one that warms it up; CPU is that of the server's process alone."""
    asyncio.run(load.run(port, path, load.prediction_body, clients=clients, seconds=min(1.0, seconds / 4)))
    seen = psutil.Process(server.pid)
    before = cpu(seen)
    done = asyncio.run(load.run(port, path, load.prediction_body, clients=clients, seconds=seconds))
    spent = cpu(seen) - before
    return {
        **done.summary(),
        "cpu_s_per_1000": round(1000 * spent / max(1, done.answered), 3),
        "rss_mb": round(seen.memory_info().rss / 2**20),
    }


def cpu(process: psutil.Process) -> float:
    """Seconds of processor time a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def rows(port: int, database: Path) -> None:
    """Rows found at the last answer beside answers given, without waiting for anything to drain."""
    before = count(database)
    done = asyncio.run(load.run(port, "/v1/programs/triage/predict", load.prediction_body, clients=32, seconds=3.0))
    emit(check="rows at the last answer", acknowledged=done.answered, rows=count(database) - before)


def count(database: Path) -> int:
    """Predictions on disk, read through a connection of its own."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT count(*) FROM predictions").fetchone()[0])
    finally:
        connection.close()


def outcomes(port: int, folder: str) -> None:
    """The acknowledgement of an outcome right after its prediction, beside single durable commits on the same disk."""
    predicted = asyncio.run(
        load.run(port, "/v1/programs/triage/predict", load.prediction_body, clients=1, seconds=60, most=1000, keep=True)
    )
    ids = [json.loads(answer)["prediction_id"] for answer in predicted.answers]

    def body(number: int) -> bytes:
        item = {"prediction_id": ids[number % len(ids)], "metric": "correct", "value": True}
        return json.dumps({"outcomes": [item]}).encode()

    reported = asyncio.run(load.run(port, "/v1/outcomes", body, clients=1, seconds=60, most=len(ids)))
    commits = single_commits(Path(folder, "commits.db"), len(ids))
    p99 = reported.summary()["p99_ms"]
    emit(check="outcome after its prediction", p50_ms=reported.summary()["p50_ms"], p99_ms=p99,
         single_commit_p50_ms=round(commits[49] * 1e3, 3), single_commit_p99_ms=round(commits[98] * 1e3, 3),
         ratio_p99=round(p99 / (commits[98] * 1e3), 2))


def single_commits(path: Path, number: int) -> list[float]:
    """Percentiles, in seconds, of one-row durable commits with the settings the server uses."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t (x TEXT)")
    taken = []
    for _ in range(number):
        start = time.perf_counter()
        connection.execute("INSERT INTO t VALUES (?)", ("x" * 300,))
        taken.append(time.perf_counter() - start)
    connection.close()
    return quantiles(taken, n=100, method="inclusive")


def memory(port: int, server: subprocess.Popen[str], predictions: int) -> None:
    """Resident memory after a tenth of the predictions and after all of them."""
    seen, path = psutil.Process(server.pid), "/v1/programs/triage/predict"
    asyncio.run(load.run(port, path, load.prediction_body, clients=32, seconds=600, most=predictions // 10))
    before = seen.memory_info().rss
    asyncio.run(load.run(port, path, load.prediction_body, clients=32, seconds=600, most=predictions))
    after = seen.memory_info().rss
    emit(check="memory", predictions=predictions, rss_mb_before=round(before / 2**20), rss_mb_after=round(after / 2**20),
         growth=round(after / before - 1, 3))


@contextmanager
def ratchet(definitions: Path, data: Path, url: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A Ratchet server of its own on a free port."""
    data.mkdir()
    environment = {
        "RATCHET_DATA": str(data), "RATCHET_DATABASE_URL": url, "RATCHET_PORT": "0", "RATCHET_LOG_LEVEL": "warning",
    }
    if url.startswith("postgresql"):
        subprocess.run([command(), "migrate"], check=True, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    verb = "up" if url.startswith("sqlite") else "serve"
    with process(verb, "--config", str(definitions), program=command(), environment=environment) as server:
        yield server, served_port(data, server)


def served_port(data: Path, server: subprocess.Popen[str]) -> int:
    """The port of a starting server, once it answers."""
    note = data / "server.json"
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}")
        if note.exists():
            return int(json.loads(note.read_text())["url"].rsplit(":", 1)[1])
        time.sleep(0.1)
    raise SystemExit("the server did not start within a minute")


def command() -> str:
    """The installed `ratchet` command."""
    return str(Path(sys.executable).with_name("ratchet"))


@contextmanager
def process(
    *arguments: str, program: str = sys.executable, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A child process, ended by its id when the block is left."""
    child = subprocess.Popen(
        [program, *arguments], stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(30)


def first_line(child: subprocess.Popen[str]) -> int:
    """The port a child prints as its first line."""
    assert child.stdout is not None
    return int(child.stdout.readline())


async def set_delay(port: int, delay: float) -> None:
    """Let the mock answer after so many seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await load.exchange(reader, writer, f"/delay/{delay}", b"{}")
    writer.close()


def emit(**values: Any) -> None:
    """Print one result."""
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
