"""The tables of `docs/statistics.md`, written between its markers from the lines last kept: never typed."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LINES = ROOT / "benchmarks/statistics.jsonl"
PAGE = ROOT / "docs/statistics.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def keep(lines: list[dict[str, Any]]) -> None:
    """Put new lines in the place of those of the same measure; the others stay."""
    new = {line.get("measure") for line in lines}
    old = [line for line in kept() if line.get("measure") not in new]
    everything = sorted(old + lines, key=lambda line: "goal" in line)
    LINES.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in everything))


def kept() -> list[dict[str, Any]]:
    """The lines last kept."""
    return [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []


def write() -> None:
    """Put the tables into the page."""
    PAGE.write_text(filled(PAGE.read_text(), kept()))


def filled(text: str, lines: list[dict[str, Any]]) -> str:
    """The page with the tables of these lines between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables(lines)}{END}{after}"


def tables(lines: list[dict[str, Any]]) -> str:
    """One row per goal, and a list of what was not met."""
    goals = [line for line in lines if "goal" in line]
    rows = [
        "| goal | bound | measured | met | others, same worlds | runs |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_row(line) for line in goals),
    ]
    missed = sum(not line["met"] for line in goals)
    return "\n".join([*rows, "", f"{len(goals) - missed} of {len(goals)} goals are met."]) + "\n"


def _row(line: dict[str, Any]) -> str:
    measured = "not built" if line["measured"] is None else f"{line['measured']:g}"
    others = "; ".join(f"{name} {_number(value)}" for name, value in line["peers"].items())
    runs = "" if line["runs"] is None else str(line["runs"])
    return (
        f"| {line['goal']} | {line['bound']} | {measured} | {'yes' if line['met'] else '**no**'} | {others} | {runs} |"
    )


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
