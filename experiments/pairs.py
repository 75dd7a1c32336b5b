"""Two variants on the same requests: exact evidence from what tells their answers to one request apart.

Where both variants answer a request and one label scores both answers, nothing has to be left to a coin. With Y₀ the
champion's score and Y₁ the challenger's, both in [0, 1], a null effect Δ₀ and a scale s² from earlier blocks only,

    x = D − Δ₀,  D = Y₁ − Y₀ ∈ [−1, 1]      E(x | past) = Δ − Δ₀
    E(Δ₀) = Σ_j w_j Π_i (1 + k_j x_i / s²)

is a supermartingale from 1 while every request's expected D, given the past, is Δ₀ at most (and so are its stopped
values): by Ville's inequality it ever reaches 1/α with probability α at most, however often one looks. The requests
need not be alike; nor is anything assumed of how the two scores of one request hang together. The more often the two
agree, the smaller is the variance of D, and the fewer requests are needed: where they agree on 90 of 100, less than a
sixth of what a split takes.

Source: Waudby-Smith & Ramdas 2010.09686, the capital process of their section 4 (there K_t(m) = Π (1 + λ_i (X_i − m)),
with predictable bets λ_i, here k_j/s² cut to what cannot ruin), for the mean of D.
"""

import math

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from experiments import capital
from experiments.capital import BETS, CAP, FUTILITY_BETS, LEAST_SCALE, Bets, mixed, prior, raised, unpack
from experiments.strata import Floats, Moments, moments

IMAGINED = 10
"""So many pairs with D² = 1/4 are taken to have come before the first, lest a run of agreement make the bets rash."""
EFFECTS = tuple(np.r_[0:0.2:0.005, 0.2:0.5:0.02, 0.5:0.96:0.05].round(3).tolist())
"""The null effects whose capital is carried, either sign; the margin joins them."""


class Pairs(Bets, msgspec.Struct, frozen=True, kw_only=True, tag="pairs"):
    """The evidence of one comparison by pairs, in constant space; `begin` makes the first, `fold` the next.

    `margin` and `min_effect` are on the score's scale. `difference` holds the moments of D. `up` and `down` hold the
    log capital of the bets that the effect is above, and below, each null: little-endian float64, one row per null, one
    column per bet. `futile` has one row.
    """

    effects = EFFECTS
    margin: float
    min_effect: float | None
    control: Moments = Moments()
    challenger: Moments = Moments()
    difference: Moments = Moments()
    up: bytes
    down: bytes
    futile: bytes | None

    def fold(self, control: ArrayLike, challenger: ArrayLike) -> "Pairs":
        """The evidence after one closed block of pairs; their order makes no difference, bit for bit.

        Row by row the scores in [0, 1] of the champion's and the challenger's answer to one request. Raises: ValueError
        for scores outside, or for columns of unequal length.
        """
        rows = np.column_stack([np.asarray(column, dtype=np.float64) for column in (control, challenger)])
        if not ((rows >= 0) & (rows <= 1)).all():  # false for a NaN too
            raise ValueError("scores must lie in [0, 1]")
        rows, count = np.unique(rows + 0.0, axis=0, return_counts=True)  # adding 0.0 makes -0.0 and 0.0 one row
        d, scale = rows[:, 1] - rows[:, 0], forecast(self.difference)
        nulls, (bets, _) = self.nulls, prior(self.aim)
        futile = self.futile
        if futile is not None and self.min_effect is not None:
            least = np.array([-self.min_effect])
            futile = raised(futile, log_growth(-d, count, scale, least, self.min_effect * FUTILITY_BETS))
        return msgspec.structs.replace(
            self,
            control=self.control + moments(rows[:, 0], count),
            challenger=self.challenger + moments(rows[:, 1], count),
            difference=self.difference + moments(d, count),
            up=raised(self.up, log_growth(d, count, scale, nulls, bets)),
            down=raised(self.down, log_growth(-d, count, scale, -nulls, bets)),
            futile=futile,
        )

    def means(self) -> tuple[Moments, Moments]:
        """The plain moments of control and challenger."""
        return self.control, self.challenger

    def estimate(self) -> float | None:
        """The mean of D: challenger minus control; None without a pair."""
        return self.difference.mean

    def estimate_debiased(self) -> float | None:
        """The same, with the better part of the winner's curse taken back; None without a pair."""
        n, mean = self.difference.n, self.difference.mean
        if mean is None:
            return None
        variance = max(LEAST_SCALE, self.difference.scatter(mean) / n) / n
        return capital.debiased(mean, variance)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Two-sided 1 − `alpha` confidence sequence for the effect, inverting the same bets at `alpha`/2 a side.

        An end is the last null refuted: the nulls are .005 apart up to .2, and beyond it .02, and .05 from .5 on. Where
        the effect moved so far that every constant one is refuted, the two ends change places.
        """
        nulls, (_, weights) = self.nulls, prior(self.aim)
        level = math.log(2 / alpha)
        lower = nulls[mixed(unpack(self.up, BETS), weights) >= level].max(initial=-1.0)
        upper = nulls[mixed(unpack(self.down, BETS), weights) >= level].min(initial=1.0)
        return float(min(lower, upper)), float(max(lower, upper))


def begin(*, margin: float = 0.0, min_effect: float | None = None) -> Pairs:
    """No evidence yet. `margin` and `min_effect` on the score's scale, [0, 1]. Raises: ValueError outside it."""
    blank = capital.untouched(len(capital.nulls(EFFECTS, margin)))
    futile = None if min_effect is None else capital.untouched(1, len(FUTILITY_BETS))
    return Pairs(margin=margin, min_effect=min_effect, up=blank, down=blank, futile=futile)


def forecast(seen: Moments) -> float:
    """The scale s² for pairs to come: the mean square of D so far, IMAGINED pairs with 1/4 among them."""
    return max(LEAST_SCALE, (seen.squares + IMAGINED / 4) / (seen.n + IMAGINED))


def log_growth(d: Floats, count: ArrayLike, scale: float, nulls: Floats, bets: Floats) -> Floats:
    """Σ log(1 + k x / s²) over differences `d`, each `count` times, for every null (rows) and bet k (columns).

    A bet is cut to where it can lose CAP of its capital at most, by x = −1 − Δ₀. Evidence falls as the null rises, cut
    or not: both (d − Δ₀) and (d − Δ₀)/(1 + Δ₀) do.
    """
    stakes = np.minimum(bets / scale, CAP / np.maximum(LEAST_SCALE, 1 + nulls)[:, None])
    return capital.growth(d[:, None] - nulls, np.asarray(count, dtype=np.float64), stakes)
