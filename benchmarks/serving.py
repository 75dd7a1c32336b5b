"""What serving costs: Ratchet on SQLite and on PostgreSQL, beside bare DSPy and beside FastAPI, in one run.

    make bench-serving [ARGS="--seconds 2 --rounds 3 --memory 100000 --write"]

Every system answers the same DSPy program through the same mock language model, at 0, 50 and 1,000 ms and with 1, 32
and 128 clients: in each cell one after the other, several rounds of it, so that a change of the machine's mood meets
them all; medians are told, and ratios within a round. Ratchet assigns and commits every prediction before it answers.
Then, with no delay: the rows found at the last answer, an outcome reported right after its prediction beside single
durable commits, and the memory over many predictions. It takes about ten minutes; `--seconds 1 --memory 10000` three.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import msgspec
import psutil
import sqlalchemy as sa
import uvloop

from benchmarks import _load as load
from benchmarks._results import Results, met, middle
from benchmarks._servers import Child, ask, definitions, line, module, ratchet
from benchmarks._single import SingleCommits
from server.store.store import read_only
from server.store.tables import predictions
from tests.postgres import running

T = TypeVar("T")
PREDICT = "/v1/programs/triage/predict"
DELAYS = (0.0, 0.05, 1.0)
CLIENTS = (1, 32, 128)
RATIOS = {
    (0.0, 32): {"requests_per_s": ">= 0.7", "cpu_s_per_1000": "<= 1.5"},
    (0.05, 128): {"requests_per_s": ">= 0.8", "p99_ms": "<= 1.3"},
}
"""What the ratios to FastAPI ought to be, by delay and clients."""
VALUES = {(1.0, 128): {"requests_per_s": ">= 120", "p99_ms": "<= 1200"}}
"""What Ratchet itself ought to reach there."""


class System(msgspec.Struct, frozen=True):
    """A server under measurement. `url` is that of its database, None where it has none."""

    name: str
    child: Child
    port: int
    path: str
    url: str | None = None

    @property
    def seen(self) -> psutil.Process:
        """Its process."""
        return psutil.Process(self.child.pid)


class Systems(msgspec.Struct, frozen=True):
    """Everything that runs during the benchmark; `ours` are Ratchet's servers."""

    lm_port: int
    bare: Child
    fastapi: System
    ours: list[System]


def main() -> None:
    """Run everything and print one JSON object per measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of every system in every cell")
    parser.add_argument("--memory", type=int, default=100_000, help="predictions of the memory measurement")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    results = Results("serving")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="bench-")))
        systems = _started(stack, folder)
        for delay in DELAYS:
            _wait(load.set_delay(systems.lm_port, delay))
            for clients in CLIENTS:
                cell(results, systems, delay, clients, options)
        _wait(load.set_delay(systems.lm_port, 0.0))
        for system in systems.ours:
            rows(results, system)
        outcomes(results, systems.ours[0], folder)
        memory(results, systems.ours[0], options.memory)
    if options.write:
        results.write()


def _started(stack: ExitStack, folder: Path) -> Systems:
    lm_port = int(line(stack.enter_context(module("_mock_lm"))))
    config = definitions(folder, lm_port)
    bare = stack.enter_context(module("_rivals", "bare", str(lm_port)))
    fastapi = stack.enter_context(module("_rivals", "fastapi", str(lm_port)))
    urls = {
        "ratchet-sqlite": f"sqlite:///{folder}/ratchet-sqlite/ratchet.db",
        "ratchet-postgres": stack.enter_context(running(durable=True)).create(),
    }
    ours = []
    for name, url in urls.items():
        child, port = stack.enter_context(ratchet(config, folder / name, url))
        ours.append(System(name, child, port, PREDICT, url))
    return Systems(lm_port, bare, System("fastapi", fastapi, int(line(fastapi)), "/predict"), ours)


def cell(results: Results, systems: Systems, delay: float, clients: int, options: argparse.Namespace) -> None:
    """One delay and number of clients: every system in turn, round by round, then medians and ratios."""
    # A window of at least three delays: the clients' first answers say little.
    warm, seconds = max(0.5, 1.2 * delay), max(options.seconds, 3 * delay)
    servers = [systems.fastapi, *systems.ours]
    found: dict[str, list[dict[str, Any]]] = {"bare": [], **{system.name: [] for system in servers}}
    for _ in range(options.rounds):
        found["bare"].append(json.loads(ask(systems.bare, f"{clients} {warm} {seconds}")))
        for system in servers:
            found[system.name].append(measure(system, clients, warm, seconds))
    about = {"lm_ms": round(delay * 1000), "clients": clients}
    for name, rounds in found.items():
        results.add("measured", **about, system=name, **middle(rounds))
    for system in systems.ours:
        ratios = middle(map(_ratio, found[system.name], found["fastapi"]))
        _judge(results, "ratio to fastapi", system, about, ratios, RATIOS.get((delay, clients), {}))
        if goals := VALUES.get((delay, clients)):
            values = middle(found[system.name])
            _judge(results, "reached", system, about, {name: values[name] for name in goals}, goals)


def measure(system: System, clients: int, warm: float, seconds: float) -> dict[str, Any]:
    """One load on one server; the processor time is that of the server's process alone."""
    done = _wait(
        load.run(
            system.port,
            system.path,
            load.prediction_body,
            clients=clients,
            warm=warm,
            seconds=seconds,
            server=system.seen,
        )
    )
    return {**done.summary(), "rss_mb": _megabytes(system)}


def _ratio(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    return {name: ours[name] / max(theirs[name], 1e-9) for name in ("requests_per_s", "p99_ms", "cpu_s_per_1000")}


def _judge(
    results: Results,
    kind: str,
    system: System,
    about: dict[str, Any],
    values: dict[str, float],
    goals: dict[str, str],
) -> None:
    results.add(
        kind,
        system=system.name,
        **about,
        **values,
        goal=", ".join(f"{name} {goal}" for name, goal in goals.items()) or None,
        met=all(met(values[name], goal) for name, goal in goals.items()) if goals else None,
    )


def rows(results: Results, system: System) -> None:
    """Rows found at the last answer beside answers given, without waiting for anything to drain."""
    before = _count(system)
    done = _wait(load.run(system.port, system.path, load.prediction_body, clients=32, seconds=2.0))
    found = _count(system) - before
    results.add(
        "rows at the last answer",
        system=system.name,
        acknowledged=done.acknowledged,
        rows=found,
        goal="equal",
        met=found == done.acknowledged,
    )


def _count(system: System) -> int:
    """Predictions on disk, read beside the server."""
    assert system.url is not None
    with read_only(system.url) as conn:
        return int(conn.scalar(sa.select(sa.func.count()).select_from(predictions)) or 0)


def outcomes(results: Results, system: System, folder: Path, number: int = 1000) -> None:
    """The acknowledgement of an outcome right after its prediction, each beside one single durable commit."""
    with SingleCommits(folder / "single.db") as commits:
        reported, committed = _wait(_reported(system, commits, number))
    ours, theirs = ({q: load.percentile(took, q) * 1e3 for q in (50, 99)} for took in (reported, committed))
    ratio = ours[99] / theirs[99]
    results.add(
        "outcome right after its prediction",
        system=system.name,
        outcomes=number,
        p50_ms=round(ours[50], 2),
        p99_ms=round(ours[99], 2),
        single_commit_p50_ms=round(theirs[50], 2),
        single_commit_p99_ms=round(theirs[99], 2),
        p99_ratio=round(ratio, 2),
        goal="p99_ratio <= 3",
        met=met(ratio, "<= 3"),
    )


async def _reported(system: System, commits: SingleCommits, number: int) -> tuple[list[float], list[float]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", system.port)
    reported, committed = [], []
    for at in range(number):
        answer = await load.exchange(reader, writer, system.path, load.prediction_body(at))
        item = {"prediction_id": json.loads(answer)["prediction_id"], "metric": "correct", "value": True}
        body = json.dumps({"outcomes": [item]}).encode()
        began = time.perf_counter()
        answer = await load.exchange(reader, writer, "/v1/outcomes", body)
        reported.append(time.perf_counter() - began)
        assert json.loads(answer)["results"][0]["status"] == "accepted", answer
        committed.append(commits.commit())
    writer.close()
    return reported, committed


def memory(results: Results, system: System, number: int) -> None:
    """Resident memory before and after many predictions; many have been made before."""
    before = _megabytes(system)
    done = _wait(load.run(system.port, system.path, load.prediction_body, clients=32, seconds=3600, most=number))
    after = _megabytes(system)
    results.add(
        "memory",
        system=system.name,
        predictions=done.acknowledged,
        rss_mb_before=before,
        rss_mb_after=after,
        growth=round(after / before - 1, 3),
        goal="growth <= 0.1",
        met=met(after / before - 1, "<= 0.1"),
    )


def _megabytes(system: System) -> int:
    return round(system.seen.memory_info().rss / 2**20)


def _wait(work: Coroutine[Any, Any, T]) -> T:
    return uvloop.run(work)


if __name__ == "__main__":
    main()
