"""The capital of bets on one effect: what is bet on, how it grows, what it says, and how it is kept.

Against a null effect Δ₀ stand a few bets at once, each on another effect. Row by row of the data the capital of bet j
is multiplied by 1 + k_j x_i / s², and the evidence against the null is what all bets together are worth,

    E(Δ₀) = Σ_j w_j Π_i (1 + k_j x_i / s²)

under weights w_j that were fixed before the first row. What x and s² are, and why that makes E valid at every look, is
told where they are made: `betting` bets on the assignment coin, `pairs` on differences within a request.

Capital is carried as its logarithm, one row per null and one column per bet, and kept as little-endian float64: what
is read back is what was stored, bit for bit. Sums run in a fixed order, and never through a matrix product, whose last
bits depend on the processor's BLAS.
"""

import math
from functools import cache
from typing import ClassVar

import numpy as np
from scipy.special import logsumexp

from experiments.strata import Floats

AIM = 0.03
"""The effect that matters where neither a margin nor a least effect says so."""
BETS = 12
"""How many effects are bet on at once."""
TAUS = (0.03, 0.12)
"""Scales of the two normal laws, half each, that `debiased` takes effects to follow."""
FUTILITY_BETS: Floats = np.array([0.8, 1.0, 1.3, 1.8])
"""The bets against the least effect of interest, in units of it: close to 1, the best bet while there is no effect."""
FUTILITY_WEIGHTS: Floats = np.array([0.3, 0.35, 0.25, 0.1])
CAP = 0.9
"""The most a bet may lose on one row."""
LEAST_SCALE = 0.01
_CHUNK = 64


class Bets:
    """That one effect is above, and below, each of many nulls, and with a `min_effect` that it is below that.

    What the structs of `betting` and `pairs` have in common; they keep the fields, each among its own. `margin` and
    `min_effect` are on the score's scale. `effects` are the nulls whose capital is carried, either sign; the margin
    joins them.
    """

    __slots__ = ()

    effects: ClassVar[tuple[float, ...]]
    margin: float
    min_effect: float | None
    up: bytes
    down: bytes
    futile: bytes | None

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 1:
            raise ValueError(f"margin: {self.margin!r} is not between 0 and 1 on the score's scale")
        if self.min_effect is not None and not 0 < self.min_effect <= 1:
            raise ValueError(f"min_effect: {self.min_effect!r} is not above 0 and at most 1 on the score's scale")

    @property
    def aim(self) -> float:
        """The effect, from the null on, that is worth finding: the margin where there is one, else the least effect."""
        return self.margin or self.min_effect or AIM

    @property
    def nulls(self) -> Floats:
        """The null effects, rising; the rows of `up` and `down`."""
        return nulls(self.effects, self.margin)

    def log_e_better(self) -> float:
        """Log evidence against "the effect is at most -margin"."""
        return self._at_margin(self.up)

    def log_e_harm(self) -> float:
        """Log evidence against "the effect is at least -margin"."""
        return self._at_margin(self.down)

    def log_e_futile(self) -> float | None:
        """Log evidence against "the effect is at least min_effect"; None without a min_effect."""
        if self.futile is None:
            return None
        return float(mixed(unpack(self.futile, len(FUTILITY_BETS)), FUTILITY_WEIGHTS)[0])

    def _at_margin(self, packed: bytes) -> float:
        _, weights = prior(self.aim)
        return float(mixed(unpack(packed, BETS)[self.nulls == -self.margin], weights)[0])


@cache
def prior(aim: float) -> tuple[Floats, Floats]:
    """The effects k_j bet on and their weights w_j, where effects from about `aim` on matter.

    Log-uniform between two thirds of the aim and nine times it (0.27 at least), with soft ends. At the default aim this
    keeps the expected sample size within 1.40 of the least that any open-ended test needs, for every effect from .02 to
    .20; half-normal weights of scales .03 and .12 need 1.56 there. The aim is fixed before the first unit, so any is
    valid. Both arrays are read-only.
    """
    widest = max(9 * AIM, 9 * aim)
    effects: Floats = np.geomspace(aim / 6, 1.2 * widest, BETS)
    weights: Floats = 1 / (1 + (aim / 1.5 / effects) ** 6 + (effects / widest) ** 6)
    weights /= weights.sum()
    effects.flags.writeable = weights.flags.writeable = False
    return effects, weights


@cache
def nulls(effects: tuple[float, ...], margin: float) -> Floats:
    """The null effects in rising order, symmetric about 0, the margin among them; read-only."""
    found: Floats = np.unique(np.concatenate([effects, np.negative(effects), [margin, -margin]])) + 0.0
    found.flags.writeable = False
    return found


def untouched(rows: int, bets: int = BETS) -> bytes:
    """The capital of bets that have met no data: 1 each."""
    return bytes(8 * rows * bets)


def growth(x: Floats, count: Floats, stakes: Floats) -> Floats:
    """Σ count · log(1 + x · stake): what rows of `x`, each `count` times, add to the log capital of every null and bet.

    `x` is rows by nulls, `stakes` nulls by bets.
    """
    grown = np.zeros(stakes.shape)
    for start in range(0, len(x), _CHUNK):  # in pieces that stay in the processor's cache
        here = slice(start, start + _CHUNK)
        grown += (count[here, None, None] * np.log1p(x[here, :, None] * stakes)).sum(axis=0)
    return grown


def raised(packed: bytes, grown: Floats) -> bytes:
    """The capital after it has grown."""
    return pack(unpack(packed, grown.shape[1]) + grown)


def mixed(capital: Floats, weights: Floats) -> Floats:
    """Log of the weighted capital along the last axis; exactly 0 for a capital of ones."""
    top = capital.max(axis=-1, keepdims=True)
    whole: Floats = top[..., 0] + np.log((np.exp(capital - top) * weights).sum(axis=-1) / weights.sum())
    return whole


def debiased(difference: float, variance: float) -> float:
    """The mean of the effects, weighted by the capital that a bet on each would hold.

    To second order a bet on δ holds exp((δd − δ²/2)/V), where d is the `difference` found and V its `variance`.
    Weighting by a prior ½N(0, τ₁²) + ½N(0, τ₂²) of effects gives a posterior mean in closed form. It takes back the
    better part of what stopping at a high moment adds to d (the winner's curse).
    """
    spreads = [variance + tau**2 for tau in TAUS]
    logs = np.array([-0.5 * math.log(spread) - 0.5 * difference**2 / spread for spread in spreads])
    weights = np.exp(logs - logsumexp(logs))
    shrunk = [difference * tau**2 / spread for tau, spread in zip(TAUS, spreads, strict=True)]
    return float((weights * shrunk).sum())


def pack(capital: Floats) -> bytes:
    """Capital as it is kept."""
    return capital.astype("<f8").tobytes()


def unpack(packed: bytes, bets: int) -> Floats:
    """Kept capital, one column per bet; an array of its own."""
    return np.frombuffer(packed, "<f8").astype(np.float64).reshape(-1, bets)
