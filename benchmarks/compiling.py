"""What a compile costs those who are being served: nothing, a child process as the product has it, or a thread.

    make bench-compiling [ARGS="--seconds 5 --rounds 3 --write"]

One server answers a hundred predictions per second by a mock language model of 5 ms. Round by round it is alone, then
compiles in its child process, then on a thread of its own process; medians are told, and ratios within a round. Either
is the same job with real `dspy.GEPA`, which goes on for as long as it is watched; `calls_per_s` says how busily.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import msgspec
import uvloop

from benchmarks._load import percentile, prediction_body, set_delay
from benchmarks._results import Results, met, middle
from benchmarks._servers import Child, ask, line, module
from benchmarks._steady import steady
from learning.engines.triage import ticket

PREDICT = "/v1/programs/triage/predict"
RATE = 100.0
DELAY = 0.005
GOAL = "<= 1.6"
EXAMPLES = 300
BATCH = 100
_BEGUN = 30
"""Metric calls after which a compile is under way."""
_DEFINITIONS = """
programs:
  triage:
    signature: "text: str -> label: str"
    instructions: Sort the ticket.
    lm:
      model: mock/mock
      api_base: http://127.0.0.1:{port}/v1
      price: {{input: 1, output: 2}}
      max_concurrency: 512
    metrics:
      correct: {{kind: exact_match, field: label, role: goal}}
    learning:
      optimizer: gepa
      reflection_lm: {{model: sim/phrases, options: {{phrases: [Sort it., Sort it well., Sort it at once.]}}}}
      max_metric_calls: 10000000
"""
"""The mock answers the same whatever it is told, so that no proposal is ever accepted, and the search never ends."""


class Stage(msgspec.Struct, frozen=True):
    """The server, and the directory of its data."""

    server: Child
    http: httpx.Client
    data: Path

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.http.base_url.port or 0)


def main() -> None:
    """Run everything and print one JSON object per measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of every state")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    results = Results("compiling")
    states = {"idle": idle, "child": in_child, "thread": in_thread}
    found: dict[str, list[dict[str, Any]]] = {state: [] for state in states}
    with ExitStack() as stack:
        stage = _set_up(stack, Path(stack.enter_context(TemporaryDirectory(prefix="bench-"))))
        for _ in range(options.rounds):
            for name, state in states.items():
                with state(stage) as folder:
                    found[name].append(measure(stage, folder, options.seconds))
    tell(results, found)
    if options.write:
        results.write()


def tell(results: Results, found: dict[str, list[dict[str, Any]]]) -> None:
    """Medians, and what a compile multiplies the quantiles by."""
    for state, rounds in found.items():
        results.add("measured", state=state, **middle(rounds))
    for state in ("child", "thread"):
        ratios = middle(
            {name: one[name] / idle[name] for name in ("p50_ms", "p95_ms", "p99_ms")}
            for one, idle in zip(found[state], found["idle"], strict=True)
        )
        judged = state == "child"
        results.add(
            "ratio to idle",
            state=state,
            **ratios,
            goal=f"p99_ms {GOAL}" if judged else None,
            met=met(ratios["p99_ms"], GOAL) if judged else None,
        )


def measure(stage: Stage, folder: Path | None, seconds: float) -> dict[str, Any]:
    """Quantiles of a steady load, and the calls per second of the compile in `folder` meanwhile."""
    before, began = _calls(folder), time.perf_counter()
    load = steady(stage.port, PREDICT, prediction_body, rate=RATE, seconds=seconds, warm=1.0)
    latencies = uvloop.run(load)
    calls = (_calls(folder) - before) / (time.perf_counter() - began)
    quantiles = {f"p{q}_ms": percentile(latencies, q) * 1e3 for q in (50, 95, 99)}
    return {"requests": len(latencies), **quantiles, "calls_per_s": calls}


@contextmanager
def idle(_stage: Stage) -> Iterator[None]:
    """Nothing is compiled."""
    yield


@contextmanager
def in_child(stage: Stage) -> Iterator[Path]:
    """The product compiles; the directory of the run."""
    run = _asked(stage)
    yield stage.data / "compiles" / run
    _cancel(stage, run)


@contextmanager
def in_thread(stage: Stage) -> Iterator[Path]:
    """The same job on a thread of the server; the directory of the run."""
    folder = stage.data / "thread"
    folder.mkdir()
    shutil.copy(stage.data / "job.json", folder)
    assert ask(stage.server, str(folder)) == "begun\n"
    _wait(lambda: _calls(folder) >= _BEGUN)
    yield folder
    assert ask(stage.server, "") == "ended\n"
    shutil.rmtree(folder)


def _set_up(stack: ExitStack, folder: Path) -> Stage:
    lm_port = int(line(stack.enter_context(module("_mock_lm"))))
    config, data = folder / "ratchet.yaml", folder / "data"
    config.write_text(_DEFINITIONS.format(port=lm_port))
    environment = {
        "RATCHET_DATA": str(data),
        "RATCHET_DATABASE_URL": f"sqlite:///{data}/ratchet.db",
        "RATCHET_PORT": "0",
        "RATCHET_LOG_LEVEL": "warning",
        "TQDM_DISABLE": "1",  # as the child has it
    }
    server = stack.enter_context(module("_threaded", str(config), environment=environment))
    url = json.loads(line(server))["url"]
    http = stack.enter_context(httpx.Client(base_url=url, timeout=60, trust_env=False))
    stage = Stage(server, http, data)
    _fill(http)
    uvloop.run(set_delay(lm_port, DELAY))
    run = _asked(stage)
    shutil.copy(data / "compiles" / run / "job.json", data)
    _cancel(stage, run)
    return stage


def _fill(http: httpx.Client) -> None:
    """Something to learn from: tickets, of which the mock takes every one to be about billing."""
    for first in range(0, EXAMPLES, BATCH):
        tickets = [ticket(1, number) for number in range(first, first + BATCH)]
        items = [{"input": {"text": each.text}} for each in tickets]
        answers = _posted(http, f"{PREDICT}/batch", {"items": items})["results"]
        said = [
            {"prediction_id": answer["prediction_id"], "label": {"label": each.label}}
            for answer, each in zip(answers, tickets, strict=True)
        ]
        _posted(http, "/v1/outcomes", {"outcomes": said})


def _posted(http: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    return http.post(path, json=body).raise_for_status().json()


def _asked(stage: Stage) -> str:
    """The id of a compile run that is under way."""
    run = _posted(stage.http, "/v1/programs/triage/compiles", {})["compile_id"]
    _wait(lambda: _run(stage, run)["progress"]["metric_calls"] >= _BEGUN)
    return str(run)


def _cancel(stage: Stage, run: str) -> None:
    _posted(stage.http, f"/v1/compiles/{run}/cancel", {})
    _wait(lambda: _run(stage, run)["finished_at"] is not None)


def _wait(holds: Callable[[], bool]) -> None:
    """Raises: SystemExit when it has not come about within a minute."""
    end = time.monotonic() + 60
    while not holds():
        if time.monotonic() > end:
            raise SystemExit("the compile does not do as it should")
        time.sleep(0.1)


def _run(stage: Stage, run: str) -> dict[str, Any]:
    found: dict[str, Any] = stage.http.get(f"/v1/compiles/{run}").raise_for_status().json()
    return found


def _calls(folder: Path | None) -> int:
    """Calls in the ledger of a compile."""
    ledger = folder / "calls.jsonl" if folder else None
    return ledger.read_bytes().count(b"\n") if ledger and ledger.exists() else 0


if __name__ == "__main__":
    main()
