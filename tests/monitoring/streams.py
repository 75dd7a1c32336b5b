"""Streams of outcomes as the tests of drift need them: seeded, and in the detector's own shape."""

from collections.abc import Iterable

import numpy as np
from scipy.stats import binom

from monitoring.drift import Detector, Outcome


def binary(seed: int, n: int, p: float, *, arm: str = "base", start: int = 0) -> list[Outcome]:
    """`n` 0/1 outcomes of which a share `p` is right, one per µs from `start` on."""
    right = np.random.default_rng(seed).random(n) < p
    return [(arm, start + i, float(y)) for i, y in enumerate(right)]


def shifting(seed: int, *parts: tuple[int, float]) -> list[Outcome]:
    """0/1 outcomes of one arm, in parts of (number, share that is right)."""
    rng = np.random.default_rng(seed)
    right = np.concatenate([rng.random(n) < p for n, p in parts])
    return [("base", i, float(y)) for i, y in enumerate(right)]


def scores(values: Iterable[float], arm: str = "base") -> list[Outcome]:
    return [(arm, i, float(y)) for i, y in enumerate(values)]


def at_most(share: float, runs: int) -> int:
    """The most alarms that runs with exactly this chance of one would show in 999 of 1,000 cases."""
    return int(binom.ppf(0.999, runs, min(1.0, share)))


def delay(detector: Detector, change: int) -> int | None:
    """Outcomes from the change to the alarm; None without one."""
    return None if detector.alarm is None else detector.alarm.at - change + 1
