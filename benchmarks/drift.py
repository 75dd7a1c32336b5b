"""The drift detector's goal numbers, measured on the detector, beside river's ADWIN, DDM, HDDM_A and Page-Hinkley.

    make bench-drift [ARGS="--quick"]

One JSON object per figure: measured, bound, whether it is met, what others do on the same streams. About three minutes
on two idle cores, and half of that again for river; `--quick` does a tenth of the runs. `--keep` keeps the lines in
`benchmarks/drift.jsonl` and writes the table of `docs/drift.md` from them; `--page` only writes the table.

Ours is the code of `monitoring/`, outcome by outcome. Seeds follow from the names of the cells: none is chosen after
the fact.
"""

import argparse
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs")
    parser.add_argument("--share", type=float, default=1.0, help="this part of the runs")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES), metavar="NAME")
    parser.add_argument("--keep", action="store_true", help="keep the lines and write the page")
    parser.add_argument("--page", action="store_true", help="only write the page from the lines kept")
    options = parser.parse_args()
    if not options.page:
        lines = list(measured(options.only, Size(0.1 if options.quick else options.share)))
        if not options.keep:
            return
        page.keep(lines, LINES)
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
