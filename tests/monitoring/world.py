"""An installation in which everything that can be shown is shown, and much has gone wrong.

It is a real `Metrics`, driven through the methods that the server calls.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np

from experiments.facts import Call
from experiments.quantities import DOLLAR, SECOND
from monitoring.domain import Learning, Survey
from monitoring.metrics import Metrics
from monitoring.signals import Reading
from tests.experiments.trials import SPLIT, bernoulli_units, experiment, run
from tests.store.made import prediction

PROGRAM = "p"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def everything() -> Metrics:
    """Every family with at least one series, as the leader of the installation shows it."""
    metrics = Metrics(version="0.0.0")
    metrics.routed(PROGRAM, SPLIT)
    metrics.led(mine=True)
    served(metrics)
    _told(metrics)
    metrics.decided(PROGRAM, "invalid", "engine")
    metrics.decided(PROGRAM, "promote", "engine")
    metrics.log_queue.set(6000)
    metrics.committed(1, 0.002)
    metrics.config_good.set(0)
    metrics.config_epoch.set(3)
    for job in ("decide", "watch", "sweep"):
        metrics.scheduler_success.labels(job).set(time.time() - 5 * 3600)
    return metrics


def served(metrics: Metrics) -> None:
    """A little traffic, a third of it unanswered and all of it slow."""
    for variant in SPLIT:
        for status in ("ok", "fallback", "error"):
            call = Call(variant, "sim/m", 100, 10, cost=DOLLAR // 100, latency=5 * SECOND)
            made = prediction(
                program=PROGRAM, assigned_variant=variant, status=status, latency=20 * SECOND, calls=(call,)
            )
            metrics.predicted(made, TRACE)
        for status in ("accepted", "late"):
            metrics.outcomes.labels(PROGRAM, variant, "correct", status).inc()
    metrics.overhead.labels(PROGRAM).observe(0.4)
    metrics.outcome_delay.labels(PROGRAM).observe(3600)


def _told(metrics: Metrics) -> None:
    rng = np.random.default_rng(1)
    trial = experiment(min_duration="10d", max_units=1000)
    evidence, _ = run(trial, 6, lambda b: bernoulli_units(rng, 50, b, {"base": 0.6, "new": 0.5}), {1: SPLIT})
    metrics.domain.weighed(PROGRAM, (trial, evidence))
    metrics.domain.surveyed(
        PROGRAM,
        Survey(
            scores={("base", "correct"): 0.8, ("new", "correct"): 0.7},
            cost_per_correct={"base": 0.002, "new": 0.003},
            coverage={"base": 0.005, "new": 0.005},
        ),
    )
    alarms = {("base", "score"): 1}
    metrics.domain.drifted(PROGRAM, readings("base"), alarms, round(time.time() - 24 * 3600) * SECOND)
    metrics.domain.compiled(
        PROGRAM,
        Learning(
            runs={("drift", "succeeded"): 1, ("schedule", "running"): 1},
            spent=5 * DOLLAR,
            month=9 * DOLLAR // 2,
            budget=5 * DOLLAR,
            progress=0.4,
            progressed_at=round(time.time() - 7200) * SECOND,
        ),
    )


def readings(*variants: str) -> list[Reading]:
    """An alarm of the score and one of the label share, of each variant."""
    return [
        Reading(
            variant=variant,
            signal=signal,
            status="alarm",
            evidence_ratio=1.1,
            score=0.6,
            baseline=0.8,
            null_score=0.78,
            outcomes=900,
            change_point=1_700_000_000 * SECOND,
            alarm_at=1_700_000_100 * SECOND,
        )
        for variant in variants
        for signal in ("score", "label_share")
    ]


@contextmanager
def scraped(metrics: Metrics) -> Iterator[int]:
    """`/metrics` of it over HTTP; the port. There is traffic between any two scrapes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served(metrics)
            found = metrics.exposition(self.headers.get("Accept"))
            self.send_response(200)
            self.send_header("Content-Type", found.media_type)
            self.end_headers()
            self.wfile.write(found.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- as http.server has it
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
