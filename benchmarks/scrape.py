"""What it costs to be watched: the time of a scrape per sample, and what predictions notice of it.

    make bench-scrape [ARGS="--seconds 2 --rounds 15 --write"]

50 programs with 4 variants on traffic each. First the registry by itself, in both formats, on an idle interpreter. Then
a real server under load, scraped every second (fifteen times as often as usual) and left alone, by turns, so that a
change of the machine's mood meets both.
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil
import uvloop

from benchmarks import _load as load
from benchmarks._results import Results, met
from benchmarks._scraper import ACCEPT
from benchmarks._servers import Child, ask, line, module, ratchet, tell
from experiments.facts import Call
from experiments.quantities import DOLLAR, SECOND
from monitoring.domain import Survey
from monitoring.metrics import Metrics
from tests.store.made import prediction

PROGRAMS, VARIANTS = 50, ("base", "v1", "v2", "v3")
FORMATS = {"text": None, "openmetrics": ACCEPT}
PER_SAMPLE = "<= 10"
P99 = "<= 1.1"
EVERY = 1.0
"""Seconds between scrapes."""
WARM = 0.5
"""Seconds over which the clients begin."""
_PROGRAM = """
  program-{number}:
    signature: "text: str -> label: str"
    lm:
      model: mock/mock
      api_base: http://127.0.0.1:{port}/v1
      price: {{input: 1, output: 2}}
      max_concurrency: 512
    metrics:
      correct: {{kind: boolean, role: goal}}
"""


def main() -> None:
    """Run everything and print one JSON object per measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=15, help="measurements with and without scrapes")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    results = Results("scrape")
    samples(results)
    with TemporaryDirectory(prefix="bench-") as name, module("_mock_lm") as model:
        folder, port = Path(name), int(line(model))
        config = folder / "ratchet.yaml"
        programs = (_PROGRAM.format(number=number, port=port) for number in range(PROGRAMS))
        config.write_text("programs:" + "".join(programs))
        with ratchet(config, folder / "data", f"sqlite:///{folder}/data/ratchet.db") as (server, served):
            _populate(served)
            with module("_scraper", str(served), "0") as scraper:
                processor(results, psutil.Process(server.pid), scraper)
            with module("_scraper", str(served), str(EVERY)) as scraper:
                for delay, clients in ((0.05, 32), (0.0, 8)):
                    uvloop.run(load.set_delay(port, delay))
                    beside(results, served, scraper, delay, clients, options)
    if options.write:
        results.write()


def samples(results: Results, times: int = 20) -> None:
    """The registry by itself: microseconds per sample, the best of several tries."""
    metrics = _full()
    for name, accept in FORMATS.items():
        number = sum(not row.startswith(b"#") for row in metrics.exposition(accept).body.splitlines())
        took = []
        for _ in range(times):
            began = time.perf_counter()
            metrics.exposition(accept)
            took.append(time.perf_counter() - began)
        each = min(took) / number * 1e6
        results.add(
            "time of a sample",
            format=name,
            samples=number,
            scrape_ms=round(min(took) * 1e3, 1),
            per_sample_us=round(each, 2),
            goal=f"per_sample_us {PER_SAMPLE}",
            met=met(each, PER_SAMPLE),
        )


def _full() -> Metrics:
    """Every variant of every program has been served, weighed and paid for."""
    metrics = Metrics(version="0")
    metrics.led(mine=True)
    for number in range(PROGRAMS):
        program = f"program-{number}"
        metrics.routed(program, dict.fromkeys(VARIANTS, 0.25))
        metrics.overhead.labels(program).observe(0.001)
        for variant in VARIANTS:
            call = Call(variant, "mock/mock", 120, 12, cost=DOLLAR // 1000, latency=SECOND)
            metrics.predicted(prediction(program=program, assigned_variant=variant, latency=SECOND, calls=(call,)))
            metrics.outcomes.labels(program, variant, "correct", "accepted").inc()
        means: dict[tuple[str, ...], float] = {(variant, "correct"): 0.8 for variant in VARIANTS}
        each = dict.fromkeys(VARIANTS, 0.5)
        metrics.domain.surveyed(program, Survey(scores=means, cost_per_correct=each, coverage=each))
    return metrics


def _populate(port: int) -> None:
    """Put four variants of every program on traffic, and let each be asked."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http:
        for number in range(PROGRAMS):
            program = f"program-{number}"
            for variant in VARIANTS[1:]:
                _post(http, f"/v1/programs/{program}/variants", {"name": variant, "instructions": f"Label, {variant}."})
            split = dict.fromkeys(VARIANTS, 0.25)
            wanted = {"program": program, "challengers": VARIANTS[1:], "split": split, "min_duration": "30d"}
            made = _post(http, "/v1/experiments", {**wanted, "max_duration": "60d"})
            _post(http, f"/v1/experiments/{made['experiment_id']}/start", {"reason": "benchmark"})
            items = [{"input": {"text": "A bill"}, "unit": f"user-{at}"} for at in range(40)]
            _post(http, f"/v1/programs/{program}/predict/batch", {"items": items})


def _post(http: httpx.Client, path: str, body: Any) -> Any:
    answer = http.post(path, json=body)
    assert answer.status_code < 300, answer.text
    return answer.json()


def processor(results: Results, server: psutil.Process, scraper: Child) -> None:
    """What a scrape takes of the server's processor time, which other work on the machine changes little."""
    time.sleep(3)  # what was asked of it to get here is over
    before, began = load.cpu_seconds(server), time.perf_counter()
    time.sleep(2)
    idle = (load.cpu_seconds(server) - before) / (time.perf_counter() - began)
    before, began = load.cpu_seconds(server), time.perf_counter()
    took = json.loads(ask(scraper, "3"))
    each = (load.cpu_seconds(server) - before - idle * (time.perf_counter() - began)) / len(took)
    results.add(
        "processor time of a scrape",
        scrapes=len(took),
        cpu_ms=round(each * 1e3, 1),
        share_of_a_core_every_15_s=round(each / 15, 5),
    )


def beside(
    results: Results, port: int, scraper: Child, delay: float, clients: int, options: argparse.Namespace
) -> None:
    """Predictions while the server is scraped, beside predictions while it is not: p99 over all rounds of each."""
    found: dict[bool, list[float]] = {False: [], True: []}
    took: list[float] = []
    for at in range(options.rounds):
        for watched in (True, False) if at % 2 else (False, True):
            if watched:
                tell(scraper, str(options.seconds + WARM))
            found[watched] += uvloop.run(_load(port, clients, options.seconds)).latencies
            took += json.loads(line(scraper)) if watched else []
    about = {"lm_ms": round(delay * 1000), "clients": clients}
    alone, scraped = (round(load.percentile(found[watched], 99) * 1e3, 2) for watched in (False, True))
    results.add(
        "p99 of predict while scraped",
        **about,
        predictions=len(found[True]),
        scrapes=len(took),
        scrape_p50_ms=round(load.percentile(took, 50) * 1e3, 1),
        p99_ms=scraped,
        p99_alone_ms=alone,
        p99_ratio=round(scraped / alone, 3),
        goal=f"p99_ratio {P99}",
        met=met(scraped / alone, P99),
    )


async def _load(port: int, clients: int, seconds: float) -> load.Load:
    path = "/v1/programs/program-0/predict"
    return await load.run(port, path, load.prediction_body, clients=clients, warm=WARM, seconds=seconds)


if __name__ == "__main__":
    main()
