"""Worlds that drift or do not, and who notices: the detector as it is in `monitoring/`, and river's beside it.

A world is an array of scores, one stream per row, 1 being right. Ours is the code that runs in production, outcome by
outcome, in as many processes as there are processors.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitoring import drift
from monitoring.design import Design, of
from monitoring.drift import Detector

Streams = NDArray[np.float64]
Prior = tuple[int, float] | None
SHIPPED = of("default", run_length=1e5)
SENSITIVE = of("sensitive", run_length=1e5)
RIVER = ("ADWIN", "DDM", "HDDM_A", "Page-Hinkley")
ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-river/bin/python"
_CHUNK = 1000


class Noticed(msgspec.Struct, frozen=True):
    """Of one stream: the outcome that raised the alarm and the change point, None without one."""

    at: int | None
    change_point: int | None = None


def right(rng: np.random.Generator, p: float | Streams, shape: tuple[int, int]) -> Streams:
    """Independent 0/1 scores."""
    return np.asarray(rng.random(shape) < p, dtype=float)


def falling(rng: np.random.Generator, p: float, drop: float, before: int, after: int, runs: int) -> Streams:
    """`before` outcomes of share `p` right, then `after` of `drop` less."""
    return right(rng, np.repeat([p, p - drop], [before, after]), (runs, before + after))


def bursty(rng: np.random.Generator, p: float, rho: float, shape: tuple[int, int]) -> Streams:
    """0/1 scores, each with probability `rho` the same as the one before."""
    held = np.where(rng.random(shape) < rho, 0, np.arange(shape[1]))
    return np.take_along_axis(right(rng, p, shape), np.maximum.accumulate(held, axis=1), axis=1)


def seasonal(rng: np.random.Generator, p: float, swing: float, period: int, shape: tuple[int, int]) -> Streams:
    """0/1 scores of a share that swings around `p`."""
    return right(rng, p + swing * np.sin(2 * np.pi * np.arange(shape[1]) / period), shape)


def every(work: Callable[..., Any], *columns: Iterable[Any]) -> list[Any]:
    """The work done on each row, spread over the processors."""
    with ProcessPoolExecutor() as pool:
        return list(pool.map(work, *columns, chunksize=8))


def noticed(design: Design, streams: Streams, priors: Sequence[Prior] | None = None) -> list[Noticed]:
    """The first alarm in every stream."""
    return every(partial(notice, design), streams, priors or [None] * len(streams))


def notice(design: Design, stream: Streams, prior: Prior) -> Noticed:
    """The first alarm in a stream of one arm."""
    outcomes = [("base", index, y) for index, y in enumerate(stream.tolist())]
    return first_alarm(design, outcomes, {"base": prior} if prior else {})


def first_alarm(design: Design, outcomes: list[drift.Outcome], priors: dict[str, tuple[int, float]]) -> Noticed:
    """The first alarm among outcomes of any arms."""
    detector = drift.begin(design, priors)
    for start in range(0, len(outcomes), _CHUNK):
        detector = detector.fold(design, outcomes[start : start + _CHUNK])
        if detector.alarm:
            return Noticed(detector.alarm.at, detector.alarm.change_point)
    return Noticed(None)


def alarms(design: Design, streams: Streams, priors: Sequence[Prior], *, dismissed: bool = False) -> list[int]:
    """How many alarms every stream raises, when each is acknowledged at once, as river's detectors begin anew at once.

    `dismissed`: the arm is held to what it was held to, so that one bad baseline may alarm again and again.
    """
    return every(partial(_count, design, dismissed), streams, priors)


def _count(design: Design, dismissed: bool, stream: Streams, prior: tuple[int, float]) -> int:
    outcomes = [("base", index, y) for index, y in enumerate(stream.tolist())]
    return count(design, outcomes, drift.begin(design, {"base": prior}), dismissed=dismissed)


def count(design: Design, outcomes: list[drift.Outcome], detector: Detector, *, dismissed: bool) -> int:
    """The same of outcomes at the times 0, 1, 2, ..."""
    start = raised = 0
    while start < len(outcomes):
        after = detector.fold(design, outcomes[start : start + _CHUNK])
        if after.alarm is None:
            detector, start = after, start + _CHUNK
            continue
        raised += 1
        until = after.alarm.at + 1
        stopped, start = detector.fold(design, outcomes[start:until]), until
        cleared = {name: arm.cleared() for name, arm in stopped.arms.items()}
        detector = Detector(cleared) if dismissed else stopped.acknowledged(design)
    return raised


def river(streams: Streams, change: int = 0, names: Sequence[str] = RIVER) -> dict[str, Any]:
    """What river says of streams in which more is worse; empty, and said loudly, where it is not installed."""
    if not PYTHON.exists():
        print("river is NOT compared: its environment is missing (make .venv-river/.installed)", file=sys.stderr)
        return {}
    with tempfile.TemporaryDirectory(prefix="bench-drift-") as folder:
        file = Path(folder, "streams.npy")
        np.save(file, streams)
        asked = json.dumps({"file": str(file), "change": change, "names": list(names)})
        script = [str(PYTHON), str(ROOT / "benchmarks/_river.py")]
        answer = subprocess.run(script, input=asked, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(answer.stdout)
    assert told.pop("version") == "0.26.1", "the figures are about river 0.26.1"
    return told


def per_100k(found: Sequence[int], outcomes: int) -> float:
    """Alarms per 100,000 outcomes, of streams this long."""
    return float(np.mean(found)) * 1e5 / outcomes


def mean_delay(found: Iterable[int | None], change: int, horizon: int) -> tuple[float, float]:
    """Mean outcomes from the change to the alarm, and the share of streams without one within the horizon.

    Streams that alarmed before the change are left out; one without an alarm counts as the whole horizon.
    """
    late = [
        horizon if at is None or at < 0 else at + 1 - change for at in found if at is None or at < 0 or at >= change
    ]
    return float(np.mean(late)), float(np.mean([delay >= horizon for delay in late]))
