"""The drift detector's goal numbers, measured on the detector, beside river's ADWIN, DDM, HDDM_A and Page-Hinkley.

    make bench-drift [ARGS="--quick"]

One JSON object per figure: measured, bound, whether it is met, what others do on the same streams. About three minutes
on two idle cores, and half of that again for river; `--quick` does a tenth of the runs. `--keep` keeps the lines in
`benchmarks/drift.jsonl` and writes the table of `docs/drift.md` from them; `--page` only writes the table.

Ours is the code of `monitoring/`, outcome by outcome. Seeds follow from the names of the cells: none is chosen after
the fact.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from benchmarks import _alarms as alarms
from benchmarks import _delays as delays
from benchmarks import _page as page
from benchmarks import _updates as updates
from benchmarks._goals import Row, Size

LINES = page.ROOT / "benchmarks/drift.jsonl"
PAGE = page.ROOT / "docs/drift.md"
MEASURES: dict[str, Callable[[Size], Iterator[Row]]] = {
    "promise": alarms.promise,
    "optimum": delays.optimum,
    "worlds": alarms.worlds,
    "uptime": delays.uptime,
    "luckiest": alarms.luckiest,
    "traffic": alarms.traffic,
    "several_arms": delays.several_arms,
    "late_labels": alarms.late_labels,
    "scores": delays.scores,
    "costs": delays.costs,
    "state": updates.state,
    "updates": updates.updates,
}


def main() -> None:
    """Measure what is asked for and print a line for each figure."""
    page.ask(__doc__, MEASURES, measured, write, LINES)


def write() -> None:
    """Put the table into the page."""
    PAGE.write_text(page.filled(PAGE.read_text(), kept()))


def kept() -> list[dict[str, Any]]:
    """The lines last kept, in the order of the goals."""
    return sorted(page.kept(LINES), key=lambda line: int(line["goal"].split()[0]))


def measured(names: Iterable[str], size: Size) -> Iterator[dict[str, Any]]:
    """Print each line as it is found, and yield it."""
    for name in names:
        began = time.perf_counter()
        for row in MEASURES[name](size):
            line = {**row.line(), "measure": name}
            print(json.dumps(line), flush=True)
            yield line
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
