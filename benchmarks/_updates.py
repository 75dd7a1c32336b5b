"""What one outcome costs, how large a state is, and whether a replay is the same: on this machine now."""

import itertools
from collections.abc import Callable, Iterator
from statistics import median
from time import process_time
from timeit import repeat

import msgspec
import numpy as np

from benchmarks import _drifts as drifts
from benchmarks._drifts import SENSITIVE, SHIPPED
from benchmarks._goals import Goal, Row, Size, seeded
from monitoring import drift
from monitoring.drift import Detector

START = 1_760_000_000_000_000


def seconds(work: Callable[[], object]) -> float:
    """The median processor time of some tries, whatever else the machine is doing."""
    return median(repeat(work, timer=process_time, number=1, repeat=7))


def updates(_: Size) -> Iterator[Row]:
    """100,000 outcomes in one call, and one outcome in each of 1,000 detectors."""
    stream = seeded("updates").random(100_000) < 0.85
    outcomes = [("base", START + index, float(y)) for index, y in enumerate(stream)]
    empty = drift.begin(SHIPPED, {})
    whole = seconds(lambda: empty.fold(SHIPPED, outcomes))
    sensitive = seconds(lambda: empty.fold(SENSITIVE, outcomes[:20_000])) / 20_000 * 1e6
    told = drifts.river(1 - stream[None, :50_000].astype(float))
    peers = {peer: each["microseconds"] for peer, each in told.items()}
    yield Row(Goal("10 microseconds per outcome", "<= 2"), whole * 10, peers, {"sensitive": sensitive})
    yield Row(Goal("10 seconds to replay 100,000 outcomes", "<= 0.5"), whole)
    many = [empty.fold(SHIPPED, outcomes[:1000])] * 1000
    one = seconds(lambda: [each.fold(SHIPPED, outcomes[1004:1005]) for each in many])
    yield Row(Goal("10 milliseconds to give 1,000 detectors an outcome each", "<= 5"), one * 1e3)


def state(_: Size) -> Iterator[Row]:
    """The largest state of many streams as JSON, and whether cutting them into calls leaves a trace."""
    largest = differing = 0
    for run in range(20):
        rng = seeded(f"state {run}")
        values = rng.beta(8, 2, 5000) if run % 2 else (rng.random(5000) < np.repeat([0.9, 0.7], 2500)) * 1.0
        outcomes = [("base", START + 10**6 * index, float(y)) for index, y in enumerate(values)]
        whole = msgspec.json.encode(drift.begin(SHIPPED, {}).fold(SHIPPED, outcomes))
        live = drift.begin(SHIPPED, {})
        for first, end in itertools.pairwise([0, *sorted(rng.integers(0, 5000, 40)), 5000]):
            live = live.fold(SHIPPED, outcomes[first:end])
            live = msgspec.json.decode(msgspec.json.encode(live), type=Detector)
        differing += msgspec.json.encode(live) != whole
        largest = max(largest, len(whole))
    yield Row(Goal("9 replays that differ from what was live, in any bit", "<= 0"), float(differing), runs=20)
    yield Row(Goal("10 bytes of a stored detector, the largest", "<= 2048"), float(largest), runs=20)
