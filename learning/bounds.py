"""How much better one program is than another at least, from their scores on the same examples.

The differences d = candidate - baseline lie on [-1, 1] and come from independent examples. Both bounds hold for every
number of examples and every law of d, without approximation.

Scores of 0 and 1 only: of n examples b are better and c worse, k = b + c in all. A mean gain g is refuted by the
statistic (b - c - n g) / √(k + 1) when it is so great that under g, whatever the share D of examples that differ,

    P = Σ_k Bin(k; n, D) P(Bin(k, (D + g) / 2D) >= r_k)  <=  α

where r_k is the least b whose statistic is as great as the one observed. (The exact unconditional test of Suissa &
Shuster 1991, Biometrics 47:361, for g = 0, with McNemar's statistic; the sign test, its conditional kin, is right too
and finds less.)

Other scores: the capital of bets on d, mean_j Π_i (1 + λ_j (d_i - g)), has an expectation of 1 at most when the mean is
g or less, so that g is refuted when it reaches 1/α (Waudby-Smith & Ramdas 2010.09686, with bets fixed beforehand: the
order of the examples then makes no difference).

The bound is the least g that is not refuted.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

Floats = NDArray[np.float64]

BETS: Floats = np.geomspace(0.05, 1.0, 12)
"""The λ_j; the best one is about the gain over the variance of d."""
_CAUTION = 0.95
"""The most a bet may lose on one example."""
_SHARES: Floats = np.concatenate([np.geomspace(1e-3, 0.1, 16, endpoint=False), np.linspace(0.1, 1, 24)])
"""The values of D that are tried."""
_STEPS = 18


def lower_bound(differences: Sequence[float], confidence: float) -> float:
    """The mean difference is above this with at least this confidence, one-sided; -1 when nothing is known."""
    d = np.asarray(differences, dtype=np.float64)
    if not d.size:
        return -1.0
    refuted = _refuted_exactly if np.isin(d, (-1, 0, 1)).all() else _refuted_by_betting
    low, high = -1.0, float(d.mean())
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(d, middle, 1 - confidence) else (low, middle)
    return low


def _refuted_exactly(d: Floats, gain: float, alpha: float) -> bool:
    """Whether a mean of `gain` or less is refuted, for differences of -1, 0 and 1."""
    n, counts = d.size, np.arange(d.size + 1)
    observed = (d.sum() - n * gain) / np.sqrt(np.abs(d).sum() + 1)
    least = np.ceil((observed * np.sqrt(counts + 1) + n * gain + counts) / 2 - 1e-9)
    shares = np.concatenate([[abs(gain)], _SHARES[abs(gain) < _SHARES]])[:, None]
    better = (shares + gain) / np.maximum(2 * shares, 1e-12)
    tails = (binom.pmf(counts, n, shares) * binom.sf(least - 1, counts, better)).sum(axis=1)
    return bool(tails.max() <= alpha)


def _refuted_by_betting(d: Floats, gain: float, alpha: float) -> bool:
    """Whether a mean of `gain` or less is refuted, for any differences in [-1, 1]."""
    bets = np.minimum(BETS, _CAUTION / max(1 + gain, 1e-300))
    capital = np.exp(np.log1p(bets[:, None] * (d - gain)).sum(axis=1)).mean()
    return bool(capital >= 1 / alpha)
