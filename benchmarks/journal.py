"""Durable rows per second and how long an acknowledgement takes, beside one commit per row.

    make bench-journal [ARGS="--seconds 3 --rounds 3 --write"]

Each client appends one prediction with its content, waits until it is on disk, and appends the next. `group` is the
journal as the server uses it, `single` the same rows with a commit each: on SQLite by one connection (it can have no
more), on PostgreSQL by a connection per client. `lost` is rows acknowledged less rows found. `fsync_ms` is what the
disk took for an append just before: compare lines only where it is alike.
"""

import argparse
import asyncio
import os
import statistics
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sqlalchemy as sa
import uvloop

from benchmarks._load import percentile
from benchmarks._results import Results, middle
from experiments.facts import Call, Content, Prediction
from server.clock import new_id, now
from server.store.appending import append, predicted
from server.store.engine import Database
from server.store.store import Store, migrate_at, read_only
from server.store.tables import predictions
from tests.postgres import running

WAYS = [
    ("sqlite", "single", 1),
    ("sqlite", "group", 1),
    ("sqlite", "group", 64),
    ("sqlite", "group", 1024),
    ("postgresql", "single", 64),
    ("postgresql", "group", 64),
    ("postgresql", "group", 1024),
]
"""Database, way of committing, clients."""


def fact() -> tuple[Prediction, Content]:
    """A prediction of about 0.75 KB, in a sticky experiment."""
    key, at = new_id(), now()
    made = Prediction(
        prediction_id=key,
        program="triage",
        experiment_id="0197",
        epoch=1,
        unit_hash=os.urandom(16).hex(),
        assigned_variant="base",
        variant="base",
        propensity=0.9,
        status="ok",
        error=None,
        latency=50_000,
        input_tokens=120,
        output_tokens=8,
        cost=4_600_000,
        assigned_cost=4_600_000,
        assigned_tokens=128,
        calls=(Call("base", "sim/triage", 120, 8, 4_600_000, 49_000),),
        created_at=at,
        answered_at=at,
    )
    said = {"ticket": "The invoice of last month has arrived twice and I would like one of them back. " * 3}
    return made, Content(
        prediction_id=key, unit="user-1", input=said, output={"category": "billing"}, error_detail=None, metadata={}
    )


async def grouped(url: str, clients: int, seconds: float) -> list[float]:
    """Acknowledgement times, in seconds, of clients sharing commits."""
    store = await asyncio.to_thread(Store.open, url)
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        while (began := time.perf_counter()) < end:
            with store.journal.reserve() as slot:
                await slot.append(*fact())
            took.append(time.perf_counter() - began)

    await asyncio.gather(*(client() for _ in range(clients)))
    await store.close()
    return took


def single(url: str, clients: int, seconds: float) -> list[float]:
    """Acknowledgement times, in seconds, of clients that each commit every row, over a connection each."""
    database = Database(url)
    engine = database.writer if database.sqlite else sa.create_engine(url, pool_size=clients)
    took: list[float] = []
    end = time.perf_counter() + seconds

    def client() -> None:
        with engine.connect() as conn:
            while (began := time.perf_counter()) < end:
                append(conn, [predicted(*fact(), None)])
                conn.commit()
                took.append(time.perf_counter() - began)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.dispose()
    database.close()
    return took


def fsync_ms(directory: Path) -> float:
    """Median milliseconds of a small durable append, over 50."""
    took = []
    with (directory / "probe").open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000


def measure(way: str, url: str, clients: int, seconds: float) -> dict[str, Any]:
    """One round on a new database: rows per second, and what an acknowledgement took."""
    migrate_at(url)
    cpu, began = time.process_time(), time.perf_counter()
    took = single(url, clients, seconds) if way == "single" else uvloop.run(grouped(url, clients, seconds))
    passed, spent = time.perf_counter() - began, time.process_time() - cpu
    return {
        "rows_per_s": round(len(took) / passed),
        "ack_p50_ms": percentile(took, 50) * 1e3,
        "ack_p99_ms": percentile(took, 99) * 1e3,
        "cpu_us_per_row": spent / len(took) * 1e6,
        "lost": len(took) - _rows(url),
    }


def _rows(url: str) -> int:
    with read_only(url) as conn:
        return int(conn.scalar(sa.select(sa.func.count()).select_from(predictions)) or 0)


def main() -> None:
    """Each way on each database, round by round, each on a database of its own; medians are told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of every way")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    results = Results("journal")
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = {way: [] for way in WAYS}
    with TemporaryDirectory(prefix="bench-") as folder, running(durable=True) as server:
        for number in range(options.rounds):
            for database, way, clients in WAYS:
                file = Path(folder, f"{way}-{clients}-{number}.db")
                url = f"sqlite:///{file}" if database == "sqlite" else server.create()
                disk = fsync_ms(Path(folder))
                one = measure(way, url, clients, options.seconds)
                found[database, way, clients].append({**one, "fsync_ms": disk})
    for (database, way, clients), rounds in found.items():
        results.add("appended", database=database, commit=way, clients=clients, **middle(rounds))
    if options.write:
        results.write()


if __name__ == "__main__":
    main()
