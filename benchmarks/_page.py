"""The tables of `docs/statistics.md`, and of `docs/drift.md`, written from the lines last kept: never typed."""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks._goals import Size

ROOT = Path(__file__).parents[1]
LINES = ROOT / "benchmarks/statistics.jsonl"
PAGE = ROOT / "docs/statistics.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def keep(lines: list[dict[str, Any]], file: Path | None = None) -> None:
    """Put new lines in the place of those of the same measure; the others stay, and so does the order of measures."""
    new, before = {line.get("measure") for line in lines}, kept(file)
    old = [line for line in before if line.get("measure") not in new]
    place = {measure: n for n, measure in enumerate(dict.fromkeys(line.get("measure") for line in before))}
    everything = sorted(old + lines, key=lambda line: ("goal" in line, place.get(line.get("measure"), len(place))))
    (file or LINES).write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in everything))


def kept(file: Path | None = None) -> list[dict[str, Any]]:
    """The lines last kept."""
    lines = file or LINES
    return [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []


def write() -> None:
    """Put the tables into the page."""
    PAGE.write_text(filled(PAGE.read_text(), kept()))


def ask(
    description: str | None,
    names: Iterable[str],
    measured: Callable[[list[str], Size], Iterable[dict[str, Any]]],
    show: Callable[[], None],
    file: Path | None = None,
) -> None:
    """What the command line asks for: measure, keep the lines in `file`, `show` them on the page."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs")
    parser.add_argument("--share", type=float, default=1.0, help="this part of the runs")
    parser.add_argument("--only", nargs="+", choices=list(names), default=list(names), metavar="NAME")
    parser.add_argument("--keep", action="store_true", help="keep the lines and write the page")
    parser.add_argument("--page", action="store_true", help="only write the page from the lines kept")
    options = parser.parse_args()
    if not options.page:
        lines = list(measured(options.only, Size(0.1 if options.quick else options.share)))
        if not options.keep:
            return
        keep(lines, file)
    show()


def filled(text: str, lines: list[dict[str, Any]]) -> str:
    """The page with the tables of these lines between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables(lines)}{END}{after}"


def tables(lines: list[dict[str, Any]]) -> str:
    """One row per goal, how many were met, and the tables beside them."""
    goals = [line for line in lines if "goal" in line]
    rows = [
        "| goal | bound | measured | met | others, same worlds | runs |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_row(line) for line in goals),
    ]
    missed = sum(not line["met"] for line in goals)
    beside = [part for line in lines if "table" in line for part in ("", *_table(line))]
    return "\n".join([*rows, "", f"{len(goals) - missed} of {len(goals)} goals are met.", *beside]) + "\n"


def _row(line: dict[str, Any]) -> str:
    measured = "not built" if line["measured"] is None else f"{line['measured']:g}"
    others = "; ".join(f"{name} {_number(value)}" for name, value in line["peers"].items())
    runs = "" if line["runs"] is None else str(line["runs"])
    return (
        f"| {line['goal']} | {line['bound']} | {measured} | {'yes' if line['met'] else '**no**'} | {others} | {runs} |"
    )


def _table(line: dict[str, Any]) -> list[str]:
    columns = line["columns"]
    return [
        f"{line['table']} ({line['runs']} runs each):",
        "",
        f"| {' | '.join(columns)} |",
        f"| {' | '.join('---' for _ in columns)} |",
        *(f"| {' | '.join([head, *(f'{cell:g}' for cell in row)])} |" for head, row in line["rows"].items()),
    ]


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
