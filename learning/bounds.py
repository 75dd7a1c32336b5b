"""How much better one program is than another at least, from their scores on the same examples.

The differences d = candidate - baseline lie on [-1, 1] and come from independent examples. Both bounds hold for every
number of examples and every law of d, without approximation.

Scores of 0 and 1 only: d is 1 with probability p, -1 with q, else 0. For a mean gain g = p - q and a discordance
D = p + q the law of the sum S is known exactly, so g is refuted at the level

    max over D <= D* of P(S >= s; g, D) + γ

where D* is the Clopper-Pearson upper bound of D at γ = α/10 (Berger & Boos 1994, JASA 89:1012, for a nuisance
parameter). The bound is the least g that is not refuted. At g = 0 this is a McNemar test.

Other scores: the capital of bets on d, mean_k Π_i (1 + λ_k (d_i - g)), has an expectation of 1 at most when the mean is
g or less, so that g is refuted when it reaches 1/α (Waudby-Smith & Ramdas 2010.09686, with bets fixed beforehand: the
order of the examples then makes no difference).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

Floats = NDArray[np.float64]

BETS: Floats = np.geomspace(0.05, 1.0, 12)
"""The λ_k; the best one is about the gain over the variance of d."""
_CAUTION = 0.95
"""The most a bet may lose on one example."""
_NUISANCE = 0.1
"""The share γ of α."""
_GRID = 48
_STEPS = 30


def lower_bound(differences: Sequence[float], confidence: float) -> float:
    """The mean difference is above this with at least this confidence, one-sided; -1 when nothing is known."""
    d = np.asarray(differences, dtype=np.float64)
    if not d.size:
        return -1.0
    refuted = _trinomial if np.isin(d, (-1, 0, 1)).all() else _betting
    low, high = -1.0, float(d.mean())
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(d, middle, 1 - confidence) else (low, middle)
    return low


def _trinomial(d: Floats, gain: float, alpha: float) -> bool:
    """Whether a mean of `gain` is refuted, for differences of -1, 0 and 1."""
    n, total, discordant = d.size, int(d.sum()), int(np.abs(d).sum())
    most = 1.0 if discordant == n else float(beta.ppf(1 - _NUISANCE * alpha, discordant + 1, n - discordant))
    if most < abs(gain):
        return gain < 0  # so great a loss would show in more of the pairs; so great a gain is not refuted by that
    discordance = np.linspace(abs(gain), most, _GRID)
    return bool(_tails(n, total, gain, discordance).max() <= (1 - _NUISANCE) * alpha)


def _tails(n: int, total: int, gain: float, discordance: Floats) -> Floats:
    """P(S >= total) for each discordance: the n-fold convolution of the law of d, by its Fourier transform."""
    size = 1 << (2 * n + 1).bit_length()
    one = np.zeros((discordance.size, size))
    one[:, 0] = (discordance - gain) / 2
    one[:, 1] = 1 - discordance
    one[:, 2] = (discordance + gain) / 2
    law = np.fft.irfft(np.fft.rfft(one, axis=1) ** n, size, axis=1)
    tails: Floats = law[:, total + n : 2 * n + 1].sum(axis=1)
    return tails


def _betting(d: Floats, gain: float, alpha: float) -> bool:
    """Whether a mean of `gain` or less is refuted, for any differences in [-1, 1]."""
    if gain <= -1:
        return bool(d.mean() > -1)
    bets = np.minimum(BETS, _CAUTION / (1 + gain))
    capital = np.log1p(bets[:, None] * (d - gain)).sum(axis=1)
    return bool(np.exp(capital).mean() >= 1 / alpha)
