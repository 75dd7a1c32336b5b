"""What was known about a unit before it was assigned, and the part of its score that this foretells.

The exact analogue of CUPED (Deng et al. 2013): not the score is adjusted but the centre that it is bet around. The
centre of a unit with covariates z is m + b·(φ(z) − φ̄), and b is the ridge regression of the score on the features φ in
*earlier* blocks. So the bet stays fair however wrong the regression is; the better it is, the less a score scatters
around its centre, and the sooner the evidence grows.

Every covariate has one feature for its number and one for each of its first MOST_STRATA texts. A text beyond those has
none of its own; a value that is missing counts as the mean.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from experiments.strata import Floats

Covariates = Mapping[str, float | str]
"""The covariates of one unit by name; a boolean is 0 or 1."""

MOST_STRATA = 8
LONGEST_TEXT = 64
MOST = 1e15
"""The greatest number, either sign, that counts as one."""
RIDGE = 4.0
"""The regression is drawn to zero as by so many imagined units of a mean score, on standardised features."""
_FEATURES = 1 + MOST_STRATA
_ROUNDING = 1e-20
"""A feature whose variance is below this part of its squared mean is constant but for rounding."""


def covariate(sent: Any) -> float | str | None:
    """What a value sent with a prediction stands for: a number, a stratum's name, or nothing that can be used.

    >>> covariate(True), covariate(3), covariate("long"), covariate([1]), covariate("x" * 65)
    (1.0, 3.0, 'long', None, None)
    """
    if isinstance(sent, str):
        return sent if len(sent) <= LONGEST_TEXT else None
    return float(sent) if isinstance(sent, bool | int | float) and -MOST <= sent <= MOST else None


class Fit(msgspec.Struct, frozen=True):
    """The regression on closed data, in constant space; `begin` makes the first, `absorb` the next.

    `texts` holds the texts with a feature, by covariate. `means` has the mean of every feature and, last, of the score;
    `products` the sums of products of their distances from the means. Both are little-endian float64.
    """

    names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    units: int
    means: bytes
    products: bytes

    def shift(self, known: Sequence[Covariates]) -> Floats:
        """How far above the mean each unit's score is to be expected, at least −1 and at most 1."""
        rows = _features(self.names, self.texts, known)
        means, products = self._moments()
        slopes = _slopes(means, products, self.units)
        distances = np.where(np.isnan(rows), 0.0, rows - means[:-1])
        foretold: Floats = np.clip((distances * slopes).sum(axis=1), -1.0, 1.0)
        return foretold + 0.0

    def absorb(self, known: Sequence[Covariates], y: Floats) -> "Fit":
        """The regression after a block more of units and their scores; their order makes no difference, bit for bit.

        Moments of the block and of what went before are joined as in Chan, Golub & LeVeque 1983, equation 2.1.
        """
        if not len(y):
            return self
        texts = tuple(_admitted(old, name, known) for old, name in zip(self.texts, self.names, strict=True))
        old_means, products = self._moments()
        rows = _features(self.names, texts, known)
        table = np.column_stack([np.where(np.isnan(rows), old_means[:-1], rows), y]) + 0.0
        table = table[np.lexsort(table.T[::-1])]
        new, units = len(table), self.units + len(table)
        block_means = table.sum(axis=0) / new
        step = block_means - old_means
        means = old_means + step * (new / units)
        products = products + _products(table - block_means) + step[:, None] * step * (self.units * new / units)
        return Fit(self.names, texts, units, means.astype("<f8").tobytes(), products.astype("<f8").tobytes())

    def _moments(self) -> tuple[Floats, Floats]:
        means = np.frombuffer(self.means, "<f8").astype(np.float64)
        return means, np.frombuffer(self.products, "<f8").astype(np.float64).reshape(len(means), len(means))


def begin(names: Sequence[str]) -> Fit:
    """Nothing known yet: every unit is expected at the mean."""
    width = len(names) * _FEATURES + 1
    return Fit(tuple(names), ((),) * len(names), 0, bytes(8 * width), bytes(8 * width * width))


def _admitted(old: tuple[str, ...], name: str, known: Sequence[Covariates]) -> tuple[str, ...]:
    """The texts with a feature after a block: the commonest of the new ones join, while there is room."""
    seen = Counter(value for one in known if isinstance(value := one.get(name), str) and value not in old)
    ordered = sorted(seen, key=lambda text: (-seen[text], text))
    return (*old, *ordered[: MOST_STRATA - len(old)])


def _features(names: Sequence[str], texts: Sequence[Sequence[str]], known: Sequence[Covariates]) -> Floats:
    """One row per unit; not a number where the value is missing, and in the number's place where it is a text."""
    rows = np.full((len(known), len(names) * _FEATURES), np.nan)
    for row, one in zip(rows, known, strict=True):
        for place, name in enumerate(names):
            value, first = one.get(name), place * _FEATURES
            if value is None:
                continue
            row[first + 1 : first + _FEATURES] = 0.0
            if not isinstance(value, str):
                row[first] = value
            elif value in texts[place]:
                row[first + 1 + texts[place].index(value)] = 1.0
    return rows


def _products(distances: Floats) -> Floats:
    """Sums of products of columns. Not by a matrix product, whose last bits depend on the processor's BLAS."""
    return np.stack([(distances * column[:, None]).sum(axis=0) for column in distances.T])


def _slopes(means: Floats, products: Floats, units: int) -> Floats:
    """The ridge regression's slopes, 0 for a constant feature.

    On features of variance 1 they solve (R + (RIDGE/n)·1) b = r, with R their correlations and r those with the score.
    """
    spread = np.diag(products)[:-1]
    slopes = np.zeros(len(spread))
    varied = spread > _ROUNDING * units * means[:-1] ** 2
    if varied.any():
        scale = np.sqrt(spread[varied])
        related = products[:-1, :-1][np.ix_(varied, varied)] / scale / scale[:, None]
        slopes[varied] = _solved(related + np.eye(len(scale)) * (RIDGE / units), products[:-1, -1][varied] / scale)
        slopes[varied] /= scale
    return slopes


def _solved(matrix: Floats, right: Floats) -> Floats:
    """The solution of a positive definite system by Gauss–Jordan elimination, free of BLAS like `_products`."""
    table = np.column_stack([matrix, right])
    for pivot in range(len(table)):
        table[pivot] /= table[pivot, pivot]
        others = np.arange(len(table)) != pivot
        table[others] -= table[others, pivot, None] * table[pivot]
    return np.asarray(table[:, -1])
