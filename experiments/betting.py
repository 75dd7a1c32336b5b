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

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from experiments import capital, covariates
from experiments.capital import BETS, CAP, FUTILITY_BETS, LEAST_SCALE, Bets, mixed, prior, raised, unpack
from experiments.covariates import Covariates, Fit
from experiments.strata import Cells, Floats, Moments, Stratum, absorb, arms, contrast, group

REACH = 0.5
"""Bets keep one size for all nulls up to here, and another beyond."""
EFFECTS = (
    *(0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.125, 0.15),
    *np.linspace(0.2, 1, 17).round(2).tolist(),
)
"""The null effects whose capital is carried, either sign; the margin joins them."""
CENTRE_RANGE = (0.02, 0.98)


class Betting(Bets, msgspec.Struct, frozen=True, kw_only=True, tag="betting"):
    """The evidence of one comparison, in constant space; `begin` makes the first, `fold` the next.

    `margin` and `min_effect` are on the score's scale. `up` and `down` hold the log capital of the bets that the effect
    is above, and below, each null: little-endian float64, one row per null, one column per bet. `futile` has one row.
    With covariates there is a `fit`, and `strata` are about scores less the shift that it foretold.
    """

    effects = EFFECTS
    margin: float
    min_effect: float | None
    strata: tuple[Stratum, ...] = ()
    up: bytes
    down: bytes
    futile: bytes | None
    fit: Fit | None = None

    def fold(self, w: ArrayLike, y: ArrayLike, pi: ArrayLike, known: Sequence[Covariates] = ()) -> "Betting":
        """The evidence after one closed block; the order of its rows makes no difference, bit for bit.

        `w` says whether the row is the challenger's, `y` its score in [0, 1], `pi` the logged probability of the
        challenger given one of these two arms. `known` holds the covariates of each row, where there is a `fit`.
        Raises: ValueError for rows outside these ranges.
        """
        block = group(w, y, pi, None if self.fit is None else self.fit.shift(known))
        if any(cells.y.min() < 0 or cells.y.max() > 1 for cells in block):
            raise ValueError("y must lie in [0, 1]")
        nulls, (bets, _) = self.nulls, prior(self.aim)
        up, down, futile = self.up, self.down, self.futile
        for cells in block:
            middle, scale = forecast(self.strata, cells.pi)
            centre = middle if cells.shift is None else np.clip(middle + cells.shift, *CENTRE_RANGE)
            up = raised(up, log_growth(cells, centre, scale, nulls, bets))
            mirrored = Cells(pi=cells.pi, w=cells.w, y=1 - cells.y, count=cells.count)
            down = raised(down, log_growth(mirrored, 1 - centre, scale, -nulls, bets))
            if futile is not None and self.min_effect is not None:
                least, at_least = np.array([-self.min_effect]), self.min_effect * FUTILITY_BETS
                futile = raised(futile, log_growth(mirrored, 1 - centre, scale, least, at_least))
        return msgspec.structs.replace(
            self,
            strata=absorb(self.strata, [_unshifted(cells) for cells in block]),
            up=up,
            down=down,
            futile=futile,
            fit=None if self.fit is None else self.fit.absorb(known, np.asarray(y, dtype=np.float64)),
        )

    def means(self) -> tuple[Moments, Moments]:
        """The moments of control and challenger, over all splits."""
        return arms(self.strata)

    def estimate(self) -> float | None:
        """The difference of means, challenger minus control, stratified by propensity; None while an arm is empty."""
        found = contrast(self.strata)
        return None if found is None else found.difference

    def estimate_debiased(self) -> float | None:
        """The same, with the better part of the winner's curse taken back; None while an arm is empty."""
        found = contrast(self.strata)
        if found is None:
            return None
        variance = max(LEAST_SCALE, found.scatter / found.weight) / found.weight  # V = s²/D
        return capital.debiased(found.difference, variance)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Two-sided 1 − `alpha` confidence sequence for the effect, inverting the same bets at `alpha`/2 a side.

        Where the effect moved so far that every constant one is refuted, the two ends change places: the effect was
        below the first and above the second at some time.
        """
        nulls, (_, weights) = self.nulls, prior(self.aim)
        level = math.log(2 / alpha)
        lower = _last_refuted(nulls, unpack(self.up, BETS), weights, level)
        upper = -_last_refuted(-nulls[::-1], unpack(self.down, BETS)[::-1], weights, level)
        return min(lower, upper), max(lower, upper)


def begin(*, margin: float = 0.0, min_effect: float | None = None, names: Sequence[str] = ()) -> Betting:
    """No evidence yet. `margin` and `min_effect` on the score's scale, [0, 1]. Raises: ValueError outside it.

    `names` are the covariates that centres are to depend on.
    """
    blank = capital.untouched(len(capital.nulls(EFFECTS, margin)))
    futile = None if min_effect is None else capital.untouched(1, len(FUTILITY_BETS))
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
    return capital.growth(x, cells.count, stakes)


def _unshifted(cells: Cells) -> Cells:
    """The cells with every score less what was foretold of it: as far from the common centre as from its own."""
    return cells if cells.shift is None else Cells(cells.pi, cells.w, cells.y - cells.shift, cells.count)


def _last_refuted(nulls: Floats, held: Floats, weights: Floats, level: float) -> float:
    """A null effect that evidence of at least `level` refutes, with all below it; close to the greatest such.

    Among nulls under the same bets, evidence falls as the null rises, and the log capital of each bet is a concave
    function of the null (a sum of logs of affine functions). So the chord between two nulls understates it: where the
    mixture of chords crosses the level, the true one is still above. Rounding goes outward.
    """
    refuted = mixed(held, weights) >= level
    if not refuted[0]:
        return -1.0
    last = len(nulls) - 1 if refuted.all() else int(np.argmin(refuted)) - 1
    if last == len(nulls) - 1 or (nulls[last] <= REACH) != (nulls[last + 1] <= REACH):
        return float(nulls[last])
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        chord = (1 - middle) * held[last] + middle * held[last + 1]
        low, high = (middle, high) if mixed(chord, weights) >= level else (low, middle)
    return float((1 - low) * nulls[last] + low * nulls[last + 1])
