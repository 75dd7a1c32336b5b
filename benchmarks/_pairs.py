"""Two variants on the same requests: how many it takes to find an effect, and that looking on costs no promise."""

import math
from collections.abc import Iterator

from benchmarks._costs import FOUND, MOST_UNITS
from benchmarks._goals import Goal, Row, Size, highest, seeded
from benchmarks._rates import EITHER
from benchmarks._worlds import binary, paired, race
from experiments.batch import PairBatch

EFFECT = 0.05
PROTOTYPE = {0.9: 382, 0.8: 739, 0.7: 1088}
"""Requests that the prototype of the design needed, by how often both answers score alike."""
REQUESTS = 2000


def pairs(size: Size) -> Iterator[Row]:
    """Requests until +.05 is found at one-sided .025, a look after each; and equal variants looked at likewise."""
    runs = size.runs(4000)
    split = race(seeded("pairs, split"), binary(0.7, EFFECT), size.runs(1000), MOST_UNITS, FOUND).units.mean()
    for agreement, needed in PROTOTYPE.items():
        world, rng = paired(agreement, EFFECT), seeded(f"pairs {agreement}")
        units = race(rng, world, runs, MOST_UNITS, FOUND, evidence=PairBatch).units
        yield Row(
            Goal(f"by pairs, answers alike on {agreement:.0%}: requests to find +.05", f"<= {needed}"),
            float(units.mean()),
            {"a split, .70 against .75": split, "prototype": needed},
            {"standard_error": float(units.std() / math.sqrt(runs))},
            runs,
        )
    yield _false_alarms(size.runs(4000))


def _false_alarms(runs: int) -> Row:
    found = {}
    for agreement in (0.98, 0.9, 0.7, 0.3):
        ends = race(seeded(f"equal pairs {agreement}"), paired(agreement), runs, REQUESTS, EITHER, evidence=PairBatch)
        found[f"agree on {agreement:.0%}"] = ends.share("better") + ends.share("harm")
    goal = Goal(
        f"by pairs, equal variants, {REQUESTS:,} requests: false alarms, two-sided .05", f"<= {highest(0.05, runs)}"
    )
    return Row(goal, max(found.values()), detail=found, runs=runs)
