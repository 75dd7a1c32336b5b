"""What one line of `make bench-statistics` says: a goal, what was measured, what others do, and whether it is met."""

import math
from typing import Any
from zlib import crc32

import msgspec
import numpy as np


class Goal(msgspec.Struct, frozen=True):
    """A sentence and its bound, such as "<= 0.05"."""

    name: str
    bound: str

    def met(self, measured: float) -> bool:
        """Whether a measured number keeps to the bound."""
        sign, limit = self.bound.split()
        return measured <= float(limit) if sign == "<=" else measured >= float(limit)


class Row(msgspec.Struct, frozen=True):
    """One line. `measured` is None for what this repository does not have; `runs` are simulated experiments."""

    goal: Goal
    measured: float | None
    peers: dict[str, Any] = {}
    detail: dict[str, Any] = {}
    runs: int | None = None

    def line(self) -> dict[str, Any]:
        """The line as JSON holds it."""
        return {
            "goal": self.goal.name,
            "bound": self.goal.bound,
            "measured": _short(self.measured),
            "met": self.measured is not None and bool(self.goal.met(self.measured)),
            "peers": _short(self.peers),
            "detail": _short(self.detail),
            "runs": self.runs,
        }


class Table(msgspec.Struct, frozen=True):
    """Numbers that stand on the page beside the goals. The first of `columns` is over the heads of the rows."""

    title: str
    columns: tuple[str, ...]
    rows: dict[str, list[float]]
    runs: int

    def line(self) -> dict[str, Any]:
        """The line as JSON holds it."""
        rows = {head: [_short(cell) for cell in row] for head, row in self.rows.items()}
        return {"table": self.title, "columns": list(self.columns), "rows": rows, "runs": self.runs}


class Size(msgspec.Struct, frozen=True):
    """How much is simulated: all of it, or `share` of the runs."""

    share: float

    def runs(self, full: int) -> int:
        """That many runs, or as many as fit."""
        return max(20, round(full * self.share))


def highest(rate: float, runs: int) -> float:
    """The promised rate and two standard errors of its estimate from `runs`."""
    return round(rate + 2 * math.sqrt(rate * (1 - rate) / runs), 4)


def seeded(name: str) -> np.random.Generator:
    """A stream of its own for every name, the same in every run: no seed is chosen after the fact."""
    return np.random.default_rng(crc32(name.encode()))


def _short(value: Any) -> Any:
    """Four significant figures are more than any of these is good for."""
    if isinstance(value, dict):
        return {name: _short(part) for name, part in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float | np.floating) else value
