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
from functools import cache

import msgspec
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from experiments.betting import AIM, BETS, CAP, FUTILITY_BETS, FUTILITY_WEIGHTS, LEAST_SCALE, TAUS, prior
from experiments.strata import Floats, Moments

IMAGINED = 10
"""So many pairs with D² = 1/4 are taken to have come before the first, lest a run of agreement make the bets rash."""
_FINE = np.arange(0, 0.2, 0.005)
_COARSE = np.concatenate([np.arange(0.2, 0.5, 0.02), np.arange(0.5, 0.96, 0.05)])


class Pairs(msgspec.Struct, frozen=True, kw_only=True, tag="pairs"):
    """The evidence of one comparison by pairs, in constant space; `begin` makes the first, `fold` the next.

    `margin` and `min_effect` are on the score's scale. `difference` holds the moments of D. `up` and `down` hold the
    log capital of the bets that the effect is above, and below, each null: little-endian float64, one row per null, one
    column per bet. `futile` has one row.
    """

    margin: float
    min_effect: float | None
    control: Moments = Moments()
    challenger: Moments = Moments()
    difference: Moments = Moments()
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
        (bets, _), nulls = prior(self.aim), _nulls(self.margin)
        futile = self.futile
        if futile is not None and self.min_effect is not None:
            least = np.array([-self.min_effect])
            futile = _raised(futile, log_growth(-d, count, scale, least, self.min_effect * FUTILITY_BETS))
        return msgspec.structs.replace(
            self,
            control=self.control + _moments(rows[:, 0], count),
            challenger=self.challenger + _moments(rows[:, 1], count),
            difference=self.difference + _moments(d, count),
            up=_raised(self.up, log_growth(d, count, scale, nulls, bets)),
            down=_raised(self.down, log_growth(-d, count, scale, -nulls, bets)),
            futile=futile,
        )

    def log_e_better(self) -> float:
        """Log evidence against "the effect is at most -margin"."""
        return self._at_null(self.up)

    def log_e_harm(self) -> float:
        """Log evidence against "the effect is at least -margin"."""
        return self._at_null(self.down)

    def log_e_futile(self) -> float | None:
        """Log evidence against "the effect is at least min_effect"; None without a min_effect."""
        return None if self.futile is None else float(_mixed(self.futile, FUTILITY_WEIGHTS)[0])

    def _at_null(self, packed: bytes) -> float:
        return float(_mixed(packed, prior(self.aim)[1])[_nulls(self.margin) == -self.margin][0])

    def means(self) -> tuple[Moments, Moments]:
        """The plain moments of control and challenger."""
        return self.control, self.challenger

    def estimate(self) -> float | None:
        """The mean of D: challenger minus control; None without a pair."""
        return self.difference.mean

    def estimate_debiased(self) -> float | None:
        """The same, with the better part of the winner's curse taken back; None without a pair.

        A posterior mean under a prior ½N(0, τ₁²) + ½N(0, τ₂²) of effects: see `betting.Betting.estimate_debiased`.
        """
        n, mean = self.difference.n, self.difference.mean
        if mean is None:
            return None
        variance = max(LEAST_SCALE, self.difference.scatter(mean) / n) / n
        priors = np.square(TAUS)
        logs = -0.5 * np.log(variance + priors) - 0.5 * mean**2 / (variance + priors)
        weights = np.exp(logs - logsumexp(logs))
        return float(weights @ (mean * priors / (variance + priors)))

    def interval(self, alpha: float) -> tuple[float, float]:
        """Two-sided 1 − `alpha` confidence sequence for the effect, inverting the same bets at `alpha`/2 a side.

        An end is the last null refuted: the nulls are .005 apart up to .2, and beyond it .02, and .05 from .5 on. Where
        the effect moved so far that every constant one is refuted, the two ends change places.
        """
        nulls, (_, weights) = _nulls(self.margin), prior(self.aim)
        level = math.log(2 / alpha)
        lower = nulls[_mixed(self.up, weights) >= level].max(initial=-1.0)
        upper = nulls[_mixed(self.down, weights) >= level].min(initial=1.0)
        return float(min(lower, upper)), float(max(lower, upper))


def begin(*, margin: float = 0.0, min_effect: float | None = None) -> Pairs:
    """No evidence yet. `margin` and `min_effect` on the score's scale, [0, 1]. Raises: ValueError outside it."""
    blank = bytes(8 * len(_nulls(margin)) * BETS)
    futile = None if min_effect is None else bytes(8 * len(FUTILITY_BETS))
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
    x = d[:, None] - nulls
    growth: Floats = np.tensordot(np.asarray(count, dtype=np.float64), np.log1p(x[:, :, None] * stakes), axes=1)
    return growth


@cache
def _nulls(margin: float) -> Floats:
    """The null effects in rising order, symmetric about 0, the margin among them; read-only."""
    grid = np.concatenate([_FINE, _COARSE]).round(3)
    nulls: Floats = np.unique(np.concatenate([grid, -grid, [margin, -margin]])) + 0.0
    nulls.flags.writeable = False
    return nulls


def _mixed(packed: bytes, weights: Floats) -> Floats:
    """Log of the weighted capital of each null; exactly 0 for a capital of ones."""
    logs = np.log(weights)
    mixed: Floats = logsumexp(_unpack(packed, len(weights)) + logs, axis=1) - logsumexp(logs)
    return mixed


def _raised(packed: bytes, growth: Floats) -> bytes:
    return (_unpack(packed, growth.shape[1]) + growth).astype("<f8").tobytes()


def _unpack(packed: bytes, bets: int) -> Floats:
    return np.frombuffer(packed, "<f8").astype(np.float64).reshape(-1, bets)


def _moments(values: Floats, count: ArrayLike) -> Moments:
    if not len(values):
        return Moments()
    n = np.asarray(count)
    return Moments(
        int(n.sum()),
        math.fsum(n * values),
        math.fsum(n * values * values),
        float(values.min()),
        float(values.max()),
    )
