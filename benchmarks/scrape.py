"""What it costs to be watched: the time of a scrape per sample, and what predictions notice of it.

    make bench-scrape [ARGS="--seconds 3 --rounds 5 --write"]

50 programs with 4 variants on traffic each. First the registry by itself, in both formats, on an idle interpreter. Then
a real server under load, scraped every second (fifteen times as often as usual) and left alone, by turns: ratios of
p99 within a round.
"""

import argparse
import asyncio
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import uvloop

from benchmarks import _load as load
from benchmarks._results import Results, met, middle
from benchmarks._servers import line, module, ratchet
from experiments.facts import Call
from experiments.quantities import DOLLAR, SECOND
from monitoring.domain import Survey
from monitoring.metrics import Metrics
from tests.store.made import prediction

PROGRAMS, VARIANTS = 50, ("base", "v1", "v2", "v3")
FORMATS = {"text": None, "openmetrics": "application/openmetrics-text; version=1.0.0"}
PER_SAMPLE = "<= 10"
P99 = "<= 1.1"
EVERY = 1.0
"""Seconds between scrapes."""
_PROGRAM = """
  program-{number}:
    signature: "text: str -> label: str"
    lm: {{model: mock/mock, api_base: "http://127.0.0.1:{port}/v1", max_concurrency: 512, price: {{input: 1, output: 2}}}}
    metrics:
      correct: {{kind: boolean, role: goal}}
"""


def main() -> None:
    """Run everything and print one JSON object per measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements with and without scrapes")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    results = Results("scrape")
    samples(results)
    with TemporaryDirectory(prefix="bench-") as name, module("_mock_lm") as model:
        folder, port = Path(name), int(line(model))
        config = folder / "ratchet.yaml"
        programs = (_PROGRAM.format(number=number, port=port) for number in range(PROGRAMS))
        config.write_text("programs:" + "".join(programs))
        with ratchet(config, folder / "data", f"sqlite:///{folder}/data/ratchet.db") as (_, served):
            _populate(served)
            for delay, clients in ((0.05, 32), (0.0, 8)):
                uvloop.run(_set_delay(port, delay))
                beside(results, served, delay, clients, options)
    if options.write:
        results.write()


def samples(results: Results, times: int = 20) -> None:
    """The registry by itself: microseconds per sample, the best of several tries."""
    metrics = _full()
    for name, accept in FORMATS.items():
        took = []
        for _ in range(times):
            began = time.perf_counter()
            found = metrics.exposition(accept)
            took.append(time.perf_counter() - began)
        number = sum(not row.startswith(b"#") for row in found.body.splitlines())
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
        means = {(variant, "correct"): 0.8 for variant in VARIANTS}
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


def beside(results: Results, port: int, delay: float, clients: int, options: argparse.Namespace) -> None:
    """Predictions while the server is scraped, beside predictions while it is not."""
    quiet: list[dict[str, Any]] = []
    scraped: list[dict[str, Any]] = []
    for at in range(options.rounds):
        for watched in (True, False) if at % 2 else (False, True):
            measured = uvloop.run(_measured(port, clients, options.seconds, watched=watched))
            (scraped if watched else quiet).append(measured)
    ratios = [ours["p99_ms"] / theirs["p99_ms"] for ours, theirs in zip(scraped, quiet, strict=True)]
    about = {"lm_ms": round(delay * 1000), "clients": clients}
    for name, rounds in (("left alone", quiet), ("scraped", scraped)):
        results.add("measured", **about, server=name, **middle(rounds))
    ratio = middle({"p99_ratio": ratio} for ratio in ratios)["p99_ratio"]
    results.add(
        "p99 of predict while scraped",
        **about,
        p99_ratio=ratio,
        lowest=round(min(ratios), 2),
        highest=round(max(ratios), 2),
        goal=f"p99_ratio {P99}",
        met=met(ratio, P99),
    )


async def _measured(port: int, clients: int, seconds: float, *, watched: bool) -> dict[str, Any]:
    took: list[float] = []
    scraping = asyncio.create_task(_scrape(port, took)) if watched else None
    path = "/v1/programs/program-0/predict"
    done = await load.run(port, path, load.prediction_body, clients=clients, warm=0.5, seconds=seconds)
    if scraping:
        scraping.cancel()
        await asyncio.wait([scraping])
    return {**done.summary(), "scrapes": len(took), "scrape_ms": round(1e3 * sum(took) / max(1, len(took)), 1)}


async def _scrape(port: int, took: list[float]) -> None:
    """Scrape for ever, as Prometheus does; `took` gets the seconds of each."""
    async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
        while True:
            began = time.perf_counter()
            answer = await http.get(
                f"http://127.0.0.1:{port}/metrics", headers={"Accept": FORMATS["openmetrics"] or ""}
            )
            assert answer.text.endswith("# EOF\n"), answer.status_code
            took.append(time.perf_counter() - began)
            await asyncio.sleep(EVERY)


async def _set_delay(port: int, delay: float) -> None:
    """Let the mock answer after so many seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await load.exchange(reader, writer, f"/delay/{delay}", b"{}")
    writer.close()


if __name__ == "__main__":
    main()
