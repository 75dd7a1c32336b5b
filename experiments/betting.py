"""Two arms on a bounded metric: exact evidence that stays valid however often it is looked at.

Betting on the assignment coin. A unit meets the challenger (W = 1) with the logged probability π, and then scores Y in
[0, 1]. With Δ = E(Y₁ − Y₀), a centre m and a scale s² computed from earlier blocks only,

    x = (W − π)(Y − m) − π(1 − π)Δ₀        E(x | past) = π(1 − π)(Δ − Δ₀)
    E(Δ₀) = Σ_j w_j Π_i (1 + k_j x_i / s²)

is a supermartingale from 1 when Δ ≤ Δ₀, so by Ville's inequality it ever reaches 1/α with probability α at most: under
any trend in time, any ramp, any stopping rule. Fresh coins are all it assumes: one row per closed unit, or one per
prediction when requests are randomised.

What is known about a unit before its coin is tossed may move its centre (`covariates`): x has the same expectation, and
scatters less. The bets k and the scale s² never depend on it, so that Δ stays the average over all units.

Sources: Waudby-Smith & Ramdas 2010.09686 (betting); Waudby-Smith et al. 2210.10768 (logged propensities); Turner, Ly &
Grünwald 2106.02693, which this equals for a binary score and Δ₀ = 0: the factors are then p_b/m, (1 − p_b)/(1 − m),
p_a/m, (1 − p_a)/(1 − m) with p_b = m + (1 − π)k, p_a = m − πk.
"""

import math
from collections.abc import Sequence
from functools import cache

import msgspec
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from experiments import covariates
from experiments.covariates import Covariates, Fit
from experiments.strata import Cells, Floats, Moments, Stratum, absorb, arms, contrast, group

AIM = 0.03
"""The effect that matters where neither a margin nor a least effect says so."""
BETS = 12
"""How many effects are bet on at once."""
TAUS = (0.03, 0.12)
"""Scales of the two normal laws, half each, that `estimate_debiased` takes effects to follow."""
FUTILITY_BETS: Floats = np.array([0.8, 1.0, 1.3, 1.8])
"""The bets against the least effect of interest, in units of it: close to 1, the best bet while there is no effect."""
FUTILITY_WEIGHTS: Floats = np.array([0.3, 0.35, 0.25, 0.1])
CAP = 0.9
"""The most a bet may lose on one unit."""
REACH = 0.5
"""Bets keep one size for all nulls up to here, and another beyond."""
EFFECTS: Floats = np.concatenate(
    [[0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.125, 0.15], np.linspace(0.2, 1, 17).round(2)]
)
"""The null effects whose capital is carried, either sign; the margin joins them."""
CENTRE_RANGE = (0.02, 0.98)
LEAST_SCALE = 0.01
_CHUNK = 64


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


class Betting(msgspec.Struct, frozen=True, kw_only=True, tag="betting"):
    """The evidence of one comparison, in constant space; `begin` makes the first, `fold` the next.

    `margin` and `min_effect` are on the score's scale. `up` and `down` hold the log capital of the bets that the effect
    is above, and below, each null: little-endian float64, one row per null, one column per bet. `futile` has one row.
    With covariates there is a `fit`, and `strata` are about scores less the shift that it foretold.
    """

    margin: float
    min_effect: float | None
    strata: tuple[Stratum, ...] = ()
    up: bytes
    down: bytes
    futile: bytes | None
    fit: Fit | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 1:
            raise ValueError(f"margin: {self.margin!r} is not between 0 and 1 on the score's scale")
        if self.min_effect is not None and not 0 < self.min_effect <= 1:
            raise ValueError(f"min_effect: {self.min_effect!r} is not above 0 and at most 1 on the score's scale")

    @property
    def aim(self) -> float:
        """The effect, from the null on, that is worth finding: the margin where there is one, else the least effect."""
        return self.margin or self.min_effect or AIM

    def fold(self, w: ArrayLike, y: ArrayLike, pi: ArrayLike, known: Sequence[Covariates] = ()) -> "Betting":
        """The evidence after one closed block; the order of its rows makes no difference, bit for bit.

        `w` says whether the row is the challenger's, `y` its score in [0, 1], `pi` the logged probability of the
        challenger given one of these two arms. `known` holds the covariates of each row, where there is a `fit`.
        Raises: ValueError for rows outside these ranges.
        """
        block = group(w, y, pi, None if self.fit is None else self.fit.shift(known))
        if any(cells.y.min() < 0 or cells.y.max() > 1 for cells in block):
            raise ValueError("y must lie in [0, 1]")
        nulls, (bets, _) = _nulls(self.margin), prior(self.aim)
        up, down = _unpack(self.up, BETS), _unpack(self.down, BETS)
        futile = None if self.futile is None else _unpack(self.futile, len(FUTILITY_BETS))
        for cells in block:
            middle, scale = forecast(self.strata, cells.pi)
            centre = middle if cells.shift is None else np.clip(middle + cells.shift, *CENTRE_RANGE)
            up = up + log_growth(cells, centre, scale, nulls, bets)
            mirrored = Cells(pi=cells.pi, w=cells.w, y=1 - cells.y, count=cells.count)
            down = down + log_growth(mirrored, 1 - centre, scale, -nulls, bets)
            if futile is not None and self.min_effect is not None:
                least = np.array([-self.min_effect])
                futile = futile + log_growth(mirrored, 1 - centre, scale, least, self.min_effect * FUTILITY_BETS)
        return msgspec.structs.replace(
            self,
            strata=absorb(self.strata, [_unshifted(cells) for cells in block]),
            up=_pack(up),
            down=_pack(down),
            futile=None if futile is None else _pack(futile),
            fit=None if self.fit is None else self.fit.absorb(known, np.asarray(y, dtype=np.float64)),
        )

    def log_e_better(self) -> float:
        """Log evidence against "the effect is at most -margin"."""
        return self._at_null(self.up)

    def log_e_harm(self) -> float:
        """Log evidence against "the effect is at least -margin"."""
        return self._at_null(self.down)

    def log_e_futile(self) -> float | None:
        """Log evidence against "the effect is at least min_effect"; None without a min_effect."""
        if self.futile is None:
            return None
        return float(_mixed(_unpack(self.futile, len(FUTILITY_BETS)), FUTILITY_WEIGHTS)[0])

    def _at_null(self, packed: bytes) -> float:
        _, weights = prior(self.aim)
        return float(_mixed(_unpack(packed, BETS)[_nulls(self.margin) == -self.margin], weights)[0])

    def means(self) -> tuple[Moments, Moments]:
        """The moments of control and challenger, over all splits."""
        return arms(self.strata)

    def estimate(self) -> float | None:
        """The difference of means, challenger minus control, stratified by propensity; None while an arm is empty."""
        found = contrast(self.strata)
        return None if found is None else found.difference

    def estimate_debiased(self) -> float | None:
        """The mean of the effects, weighted by the capital that a bet on each would hold; None while an arm is empty.

        To second order a bet on δ holds exp((δd − δ²/2)/V), where d is the estimate and V = s²/D its variance.
        Weighting by a prior ½N(0, τ₁²) + ½N(0, τ₂²) of effects gives a posterior mean in closed form. It takes back
        the better part of what stopping at a high moment adds to d (the winner's curse).
        """
        found = contrast(self.strata)
        if found is None:
            return None
        variance = max(LEAST_SCALE, found.scatter / found.weight) / found.weight
        spreads = [variance + tau**2 for tau in TAUS]
        logs = np.array([-0.5 * math.log(spread) - 0.5 * found.difference**2 / spread for spread in spreads])
        weights = np.exp(logs - logsumexp(logs))
        shrunk = [found.difference * tau**2 / spread for tau, spread in zip(TAUS, spreads, strict=True)]
        return float(weights @ shrunk)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Two-sided 1 − `alpha` confidence sequence for the effect, inverting the same bets at `alpha`/2 a side.

        Where the effect moved so far that every constant one is refuted, the two ends change places: the effect was
        below the first and above the second at some time.
        """
        nulls, (_, weights) = _nulls(self.margin), prior(self.aim)
        level = math.log(2 / alpha)
        lower = _last_refuted(nulls, _unpack(self.up, BETS), weights, level)
        upper = -_last_refuted(-nulls[::-1], _unpack(self.down, BETS)[::-1], weights, level)
        return min(lower, upper), max(lower, upper)


def begin(*, margin: float = 0.0, min_effect: float | None = None, names: Sequence[str] = ()) -> Betting:
    """No evidence yet. `margin` and `min_effect` on the score's scale, [0, 1]. Raises: ValueError outside it.

    `names` are the covariates that centres are to depend on.
    """
    blank = _pack(np.zeros((len(_nulls(margin)), BETS)))
    futile = None if min_effect is None else _pack(np.zeros((1, len(FUTILITY_BETS))))
    fit = covariates.begin(names) if names else None
    return Betting(margin=margin, min_effect=min_effect, up=blank, down=blank, futile=futile, fit=fit)


def forecast(strata: Sequence[Stratum], pi: float) -> tuple[float, float]:
    """Centre m and scale s² for units to come: the expected score under `pi`, and its mean squared distance from m.

    Both lean on one imagined unit, so that they exist without data. A centre of π·mean₁ + (1−π)·mean₀, the score's
    expectation, makes the bet on a binary score growth-optimal. (x varies least around (1−π)·mean₁ + π·mean₀, but bets
    grow 1 to 3 % slower there when π = 0.1.)
    """
    control, challenger = arms(strata)
    both = control + challenger
    pooled = (both.total + 0.5) / (both.n + 1)
    mean_0, mean_1 = ((arm.total + pooled) / (arm.n + 1) for arm in (control, challenger))
    expected = pi * mean_1 + (1 - pi) * mean_0
    centre = min(max(expected, CENTRE_RANGE[0]), CENTRE_RANGE[1])
    return centre, max(LEAST_SCALE, (both.scatter(centre) + centre * (1 - centre)) / (both.n + 1))


def log_growth(cells: Cells, centre: float | Floats, scale: float, nulls: Floats, bets: Floats) -> Floats:
    """Σ log(1 + k x / s²) over the cells' rows, for every null effect (rows) and bet k (columns).

    A bet is cut to where it can lose CAP of its capital at most. The cut is the same for all nulls up to REACH (and
    beyond it), because `interval` interpolates between nulls that were bet on alike. Nor does it depend on a row's own
    `centre`, where each has one: a bet that grew with what is known of a unit would test a weighted effect.
    """
    coin = cells.pi * (1 - cells.pi)
    least, greatest = CENTRE_RANGE if isinstance(centre, np.ndarray) else (centre, centre)
    worst = max((1 - cells.pi) * greatest, cells.pi * (1 - least))
    reach = np.where(nulls <= REACH, REACH, 1.0)[:, None]
    stakes = np.minimum(bets / scale, CAP / (worst + coin * reach))
    x = ((cells.w - cells.pi) * (cells.y - centre))[:, None] - coin * nulls
    growth = np.zeros(stakes.shape)
    for start in range(0, len(x), _CHUNK):  # in pieces that stay in the processor's cache
        here = slice(start, start + _CHUNK)
        growth += (cells.count[here, None, None] * np.log1p(x[here, :, None] * stakes)).sum(axis=0)
    return growth


def _unshifted(cells: Cells) -> Cells:
    """The cells with every score less what was foretold of it: as far from the common centre as from its own."""
    return cells if cells.shift is None else Cells(cells.pi, cells.w, cells.y - cells.shift, cells.count)


def _last_refuted(nulls: Floats, capital: Floats, weights: Floats, level: float) -> float:
    """A null effect that evidence of at least `level` refutes, with all below it; close to the greatest such.

    Among nulls under the same bets, evidence falls as the null rises, and the log capital of each bet is a concave
    function of the null (a sum of logs of affine functions). So the chord between two nulls understates it: where the
    mixture of chords crosses the level, the true one is still above. Rounding goes outward.
    """
    refuted = _mixed(capital, weights) >= level
    if not refuted[0]:
        return -1.0
    last = len(nulls) - 1 if refuted.all() else int(np.argmin(refuted)) - 1
    if last == len(nulls) - 1 or (nulls[last] <= REACH) != (nulls[last + 1] <= REACH):
        return float(nulls[last])
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        chord = (1 - middle) * capital[last] + middle * capital[last + 1]
        low, high = (middle, high) if _mixed(chord, weights) >= level else (low, middle)
    return float((1 - low) * nulls[last] + low * nulls[last + 1])


def _nulls(margin: float) -> Floats:
    """The null effects in rising order, symmetric about 0, the margin among them."""
    return np.unique(np.concatenate([EFFECTS, -EFFECTS, [margin, -margin]])) + 0.0


def _mixed(capital: Floats, weights: Floats) -> Floats:
    """Log of the weighted capital along the last axis; exactly 0 for a capital of ones."""
    top = capital.max(axis=-1, keepdims=True)
    mixed: Floats = top[..., 0] + np.log((np.exp(capital - top) * weights).sum(axis=-1) / weights.sum())
    return mixed


def _pack(capital: Floats) -> bytes:
    return capital.astype("<f8").tobytes()


def _unpack(packed: bytes, bets: int) -> Floats:
    return np.frombuffer(packed, "<f8").astype(np.float64).reshape(-1, bets)
