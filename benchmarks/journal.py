"""Durable rows per second and how long an acknowledgement takes, beside one commit per row.

64 clients each append one prediction with its content, wait until it is on disk, and append the next. `group` is the
journal as the server uses it, `single` the same rows with a commit each: on SQLite by one connection (it can have no
more), on PostgreSQL by a connection per client. Rows are counted in the database at the end. `fsync_ms` is what the
disk took for an append just before: compare lines only where it is alike.

Run by `make bench-journal`. One JSON object per line.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from experiments.facts import Call, Content, Prediction
from server.clock import new_id, now
from server.store.appending import append, predicted
from server.store.engine import Database
from server.store.store import Store, migrate_at
from server.store.tables import predictions

CLIENTS = 64
SECONDS = float(os.environ.get("BENCH_SECONDS", "5"))


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
        calls=(Call("base", "sim/triage", 120, 8, 4_600_000, 49_000),),
        created_at=at,
        answered_at=at,
    )
    said = {"ticket": "The invoice of last month has arrived twice and I would like one of them back. " * 3}
    return made, Content(
        prediction_id=key, unit="user-1", input=said, output={"category": "billing"}, error_detail=None, metadata={}
    )


async def grouped(url: str) -> list[float]:
    """Acknowledgement times, in seconds, of clients sharing commits."""
    store = await asyncio.to_thread(Store.open, url)
    took: list[float] = []
    end = time.perf_counter() + SECONDS

    async def client() -> None:
        while (began := time.perf_counter()) < end:
            with store.journal.reserve() as slot:
                await slot.append(*fact())
            took.append(time.perf_counter() - began)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    await store.close()
    return took


def single(url: str) -> list[float]:
    """Acknowledgement times, in seconds, of clients that each commit every row."""
    database = Database(url)
    clients = 1 if database.sqlite else CLIENTS
    engine = database.writer if database.sqlite else sa.create_engine(url, pool_size=clients)
    took: list[float] = []
    end = time.perf_counter() + SECONDS

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


def measure(name: str, way: str, run: Callable[[], list[float]], url: str, directory: Path) -> dict[str, Any]:
    """One line of the result."""
    disk = fsync_ms(directory)
    cpu, began = time.process_time(), time.perf_counter()
    took = sorted(run())
    seconds, spent = time.perf_counter() - began, time.process_time() - cpu
    database = Database(url)
    with database.readers.connect() as conn:
        rows = conn.scalar(sa.select(sa.func.count()).select_from(predictions))
    database.close()
    return {
        "bench": "journal",
        "database": name,
        "commit": way,
        "clients": 1 if (name, way) == ("sqlite", "single") else CLIENTS,
        "rows_per_second": round(len(took) / seconds),
        "ack_ms": {"p50": _at(took, 0.5), "p99": _at(took, 0.99)},
        "cpu_us_per_row": round(spent / len(took) * 1e6, 1),
        "fsync_ms": round(disk, 2),
        "acknowledged": len(took),
        "rows": rows,
    }


def _at(took: list[float], share: float) -> float:
    return round(took[int(len(took) * share)] * 1000, 2)


def main() -> None:
    """Both ways on SQLite, then on PostgreSQL, each on a database of its own."""
    from tests.conftest import Postgres  # noqa: PLC0415 -- the tests' own server; not needed before

    with (
        tempfile.TemporaryDirectory(prefix="bench-") as made,
        tempfile.TemporaryDirectory(prefix="bench-pg-", ignore_cleanup_errors=True) as data,
    ):
        directory = Path(made)
        server = Postgres(Path(data), durable=True)
        for way in ("single", "group"):
            for name in ("sqlite", "postgresql"):
                url = f"sqlite:///{directory / way}.db" if name == "sqlite" else server.create()
                migrate_at(url)
                run = (lambda url=url: single(url)) if way == "single" else (lambda url=url: asyncio.run(grouped(url)))
                sys.stdout.write(json.dumps(measure(name, way, run, url, directory)) + "\n")
                sys.stdout.flush()
        server.stop()


if __name__ == "__main__":
    main()
