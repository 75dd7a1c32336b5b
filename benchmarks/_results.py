"""Results as they are found: one JSON object per line, and at the end as tables in `docs/benchmarks.md`."""

import json
import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

PAGE = Path("docs/benchmarks.md")


class Results:
    """The lines of one benchmark, printed as they come."""

    def __init__(self, benchmark: str) -> None:
        self._benchmark = benchmark
        self._lines: list[dict[str, Any]] = []
        machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
        self._about = f"{machine}; load average {os.getloadavg()[0]:.1f} when it began"
        print(json.dumps({"benchmark": benchmark, "machine": self._about}), flush=True)

    def add(self, kind: str, **values: Any) -> None:
        """One result; those of a kind have the same fields and become one table."""
        self._lines.append({"kind": kind, **values})
        print(json.dumps(self._lines[-1]), flush=True)

    def write(self) -> None:
        """Put the tables into the page, between this benchmark's two marks."""
        begin, end = (f"<!-- {self._benchmark}: {mark} -->" for mark in ("begin", "end"))
        before, _, rest = PAGE.read_text().partition(begin)
        _, _, after = rest.partition(end)
        when = f"{datetime.now(UTC):%Y-%m-%d}, {self._about}."
        parts = [f"### {kind.capitalize()}\n\n{table(self._of(kind))}" for kind in self._kinds()]
        PAGE.write_text("\n\n".join([before + begin, when, *parts, end + after]))

    def _kinds(self) -> list[str]:
        """Those with goals first."""
        kinds = {line["kind"]: "goal" not in line for line in self._lines}
        return sorted(kinds, key=kinds.__getitem__)

    def _of(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self._lines if line["kind"] == kind]


def table(lines: list[dict[str, Any]]) -> str:
    """Results of one kind in Markdown."""
    names = [name for name in lines[0] if name != "kind"]
    rows = [[_cell(line[name]) for name in names] for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in [names, ["---"] * len(names), *rows])


def middle(rounds: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The median of every value over rounds that measured the same."""
    listed = list(rounds)
    return {name: round(median(found[name] for found in listed), 3) for name in listed[0]}


def met(value: float, goal: str) -> bool:
    """Whether a value is as a goal such as ">= 0.7" or "<= 1.5" wants it."""
    sign, limit = goal.split()
    return value >= float(limit) if sign == ">=" else value <= float(limit)


def _cell(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)
