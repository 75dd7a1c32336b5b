"""The engine's goal numbers, measured on the engine, beside naive peeking, TensorZero's published rule and gbstats.

    make bench-statistics [ARGS="--quick"]

One JSON object per goal: measured, bound, whether it is met, what others do in the same simulated worlds. Full takes
about half an hour on two cores, `--quick` a few minutes with fewer runs. `--keep` keeps the lines in
`benchmarks/statistics.jsonl` and writes the tables of `docs/statistics.md` from them; `--page` only writes the tables.

The engine is folded for many runs at once by `experiments/batch.py`, which must first agree with the engine proper.
Seeds follow from the names of the cells: none is chosen after the fact.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks import _arrivals as arrivals
from benchmarks import _costs as costs
from benchmarks import _covariates as covariates
from benchmarks import _late as late
from benchmarks import _page as page
from benchmarks import _pairs as pairs
from benchmarks import _peers as peers
from benchmarks import _rates as rates
from benchmarks import _speed as speed
from benchmarks._goals import Row, Size, Table, seeded

MEASURES: dict[str, Callable[[Size], Row | Iterable[Row | Table]]] = {
    "false_promotion": rates.false_promotion,
    "sample_size": costs.sample_size,
    "series": costs.series,
    "everything": costs.everything,
    "sticky": rates.sticky,
    "units": costs.units_of_analysis,
    "ramp": rates.ramp_and_trend,
    "late": late.late_outcomes,
    "arrivals": arrivals.arrival_parity,
    "covariates": covariates.covariates,
    "pairs": pairs.pairs,
    "sample_ratio": rates.sample_ratio,
    "folding": speed.folding_costs,
    "tick": speed.tick_costs,
}


def main() -> None:
    """Measure what is asked for and print a line for each goal."""
    page.ask(__doc__, MEASURES, measured, page.write)


def measured(names: Iterable[str], size: Size) -> Iterable[dict[str, Any]]:
    """Print each line as it is found, and yield it."""
    gap = late.same_as_folding()
    assert gap < 1e-9, f"the vectorised path is not the engine: {gap} apart in log e"
    yield _said({"check": "vectorised path against the engine", "largest_gap": gap})
    yield _said({"check": "gbstats", **peers.verify_gbstats(seeded("gbstats"))})
    for name in names:
        began = time.perf_counter()
        found = MEASURES[name](size)
        for row in [found] if isinstance(found, Row) else found:
            yield _said({**row.line(), "measure": name})
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)


def _said(line: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(line), flush=True)
    return line


if __name__ == "__main__":
    main()
