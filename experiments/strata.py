"""What has been measured on two arms, kept apart by the probability with which units met the challenger.

Within one such stratum the coin was the same for everybody, so the difference of its arms' means is unbiased, whatever
the metric did over time. Pooling over strata instead would mistake a trend during a ramp for an effect (Simpson).
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class Moments(msgspec.Struct, frozen=True):
    """Count, sum, sum of squares, least and greatest value of one arm; all 0 without a value."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    least: float = 0.0
    greatest: float = 0.0

    def __add__(self, other: "Moments") -> "Moments":
        if not self.n or not other.n:
            return self if self.n else other
        return Moments(
            self.n + other.n,
            self.total + other.total,
            self.squares + other.squares,
            min(self.least, other.least),
            max(self.greatest, other.greatest),
        )

    @property
    def mean(self) -> float | None:
        """The mean, None without a value."""
        return self.total / self.n if self.n else None

    def scatter(self, centre: float) -> float:
        """The sum of squared distances from `centre`."""
        return max(0.0, self.squares - 2 * centre * self.total + self.n * centre * centre)


class Stratum(msgspec.Struct, frozen=True):
    """The arms' moments over the units that met the challenger, rather than the control, with probability `pi`."""

    pi: float
    control: Moments
    challenger: Moments


class Contrast(msgspec.Struct, frozen=True):
    """Challenger minus control.

    `difference` is Σ D_s d_s / Σ D_s over strata s, with d_s the difference of means and `weight` = Σ D_s, where
    D_s = n₁n₀/(n₁+n₀). `scatter` is Σ D_s² Var(d_s), so that the variance of `difference` is `scatter` / `weight`².
    `leverage` is the greatest share that one value has in `scatter`.
    """

    difference: float
    weight: float
    scatter: float
    leverage: float


class Cells(msgspec.Struct, frozen=True):
    """The distinct rows of a block under one propensity, in order, and how often each occurred.

    `shift` is how far above the mean each row's score was to be expected; None where nothing was known about it.
    """

    pi: float
    w: Floats
    y: Floats
    count: Floats
    shift: Floats | None = None


def group(w: ArrayLike, y: ArrayLike, pi: ArrayLike, shift: ArrayLike | None = None) -> list[Cells]:
    """The rows of a block as ordered cells, so that nothing after this depends on the order of the rows.

    `w` is 1 for the challenger and 0 for the control. Raises: ValueError when a row is not finite, `w` is anything
    else, or `pi` lies outside [0, 1].
    """
    columns = (pi, w, y) if shift is None else (pi, w, y, shift)
    rows = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])
    share, arm = rows[:, 0], rows[:, 1]
    if not (np.isfinite(rows).all() and np.isin(arm, (0, 1)).all() and ((share >= 0) & (share <= 1)).all()):
        raise ValueError("rows must be finite, with w either 0 or 1 and pi in [0, 1]")
    rows = rows[np.lexsort(rows.T[::-1])] + 0.0  # -0.0 and 0.0 are one value: adding 0.0 makes them one bit pattern
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    count = np.diff(np.append(np.flatnonzero(first), len(rows))).astype(np.float64)
    cells = rows[first]
    return [
        Cells(float(p), cells[here, 1], cells[here, 2], count[here], None if shift is None else cells[here, 3])
        for p in np.unique(cells[:, 0])
        for here in [cells[:, 0] == p]
    ]


def absorb(strata: Sequence[Stratum], block: Sequence[Cells]) -> tuple[Stratum, ...]:
    """The strata with a block's cells added, in the order of their propensities."""
    known = {stratum.pi: stratum for stratum in strata}
    for cells in block:
        old = known.get(cells.pi, Stratum(cells.pi, Moments(), Moments()))
        known[cells.pi] = Stratum(cells.pi, old.control + _of_arm(cells, 0), old.challenger + _of_arm(cells, 1))
    return tuple(known[pi] for pi in sorted(known))


def _of_arm(cells: Cells, arm: int) -> Moments:
    here = cells.w == arm
    return moments(cells.y[here], cells.count[here])


def moments(values: Floats, count: ArrayLike) -> Moments:
    """The moments of values, each as often as `count` says; their order makes no difference."""
    if not values.size:
        return Moments()
    n = np.asarray(count)
    return Moments(
        int(n.sum()),
        math.fsum(n * values),
        math.fsum(n * values * values),
        float(values.min()),
        float(values.max()),
    )


def arms(strata: Sequence[Stratum]) -> tuple[Moments, Moments]:
    """Control and challenger over all strata."""
    control, challenger = Moments(), Moments()
    for stratum in strata:
        control, challenger = control + stratum.control, challenger + stratum.challenger
    return control, challenger


def contrast(strata: Sequence[Stratum]) -> Contrast | None:
    """The stratified difference of means; None while no stratum has a value in both arms."""
    parts = [_stratum_contrast(s) for s in strata if s.control.n and s.challenger.n]
    if not parts:
        return None
    weight = math.fsum(part.weight for part in parts)
    scatter = math.fsum(part.scatter for part in parts)
    return Contrast(
        difference=math.fsum(part.weight * part.difference for part in parts) / weight,
        weight=weight,
        scatter=scatter,
        leverage=max(part.leverage * part.scatter for part in parts) / scatter if scatter > 0 else 0.0,
    )


def _stratum_contrast(stratum: Stratum) -> Contrast:
    control, challenger = stratum.control, stratum.challenger
    n = control.n + challenger.n
    parts = []
    for arm, other in ((control, challenger), (challenger, control)):
        mean = arm.total / arm.n
        pull = (other.n / n) ** 2
        parts.append((pull * arm.scatter(mean), pull * max(arm.greatest - mean, mean - arm.least) ** 2))
    scatter = parts[0][0] + parts[1][0]
    return Contrast(
        difference=challenger.total / challenger.n - control.total / control.n,
        weight=control.n * challenger.n / n,
        scatter=scatter,
        leverage=max(parts[0][1], parts[1][1]) / scatter if scatter > 0 else 0.0,
    )
