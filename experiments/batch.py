"""Many simulated comparisons folded side by side: `betting` and `pairs` over arrays of runs, to plan and to measure.

The numbers are those of `betting.Betting` and `pairs.Pairs` (tests hold them equal), without the grid of nulls behind
an interval: an operator who plans cannot wait for a thousand experiments folded one by one. Arrays have one row per run
and one column per unit, in the order in which the units mature; bets are the last axis.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr

from experiments.betting import CENTRE_RANGE, REACH
from experiments.capital import AIM, CAP, FUTILITY_BETS, FUTILITY_WEIGHTS, LEAST_SCALE, prior
from experiments.pairs import IMAGINED
from experiments.ratio import LEAST_UNITS, NOISE, TAU
from experiments.strata import Floats

SIDES = ("better", "harm", "futile")


class Bettor:
    """One side of one comparison in every run: bets that the effect lies above `null`, or below it when `mirrored`."""

    def __init__(self, runs: int, null: float, bets: Floats, weights: Floats, *, mirrored: bool = False) -> None:
        self.null, self.bets, self.mirrored = (-null if mirrored else null), bets, mirrored
        self.log_weights = np.log(weights / weights.sum())
        self.capital = np.zeros((runs, len(bets)))

    def fold(self, w: Floats, y: Floats, pi: Floats, count: Floats, centre: Floats, scale: Floats) -> Floats:
        """Log e-values after each column; `count` is how many units a column stands for. See `betting.log_growth`."""
        if self.mirrored:
            y, centre = 1 - y, 1 - centre
        coin = pi * (1 - pi)
        worst = np.maximum((1 - pi) * centre, pi * (1 - centre))
        cut = CAP / (worst + coin * (REACH if self.null <= REACH else 1.0))
        stakes = np.minimum(self.bets / scale[..., None], cut[..., None])
        return self._grown((w - pi) * (y - centre) - coin * self.null, stakes, count)

    def fold_pairs(self, d: Floats, count: Floats, scale: Floats) -> Floats:
        """The same for requests that both variants answered, `d` apart in score. See `pairs.log_growth`."""
        stakes = np.minimum(self.bets / scale[..., None], CAP / max(LEAST_SCALE, 1 + self.null))
        return self._grown((-d if self.mirrored else d) - self.null, stakes, count)

    def _grown(self, x: Floats, stakes: Floats, count: Floats) -> Floats:
        growth = np.log1p(x[..., None] * stakes)
        growth *= np.broadcast_to(count, x.shape)[..., None]
        np.cumsum(growth, axis=1, out=growth)
        growth += self.capital[:, None, :]
        self.capital = growth[:, -1].copy()
        return self._mixed(growth)

    def _mixed(self, capital: Floats) -> Floats:
        capital = capital + self.log_weights
        top = capital.max(axis=-1)
        capital -= top[..., None]
        return np.asarray(top + np.log(np.exp(capital, out=capital).sum(axis=-1)))


def _bettors(runs: int, margin: float, min_effect: float | None, sides: Sequence[str]) -> dict[str, Bettor]:
    """One for each of `sides`; futility needs a `min_effect`."""
    effects, weights = prior(margin or min_effect or AIM)
    found = {
        "better": Bettor(runs, -margin, effects, weights),
        "harm": Bettor(runs, -margin, effects, weights, mirrored=True),
    }
    if min_effect is not None:
        found["futile"] = Bettor(runs, min_effect, min_effect * FUTILITY_BETS, FUTILITY_WEIGHTS, mirrored=True)
    return {name: side for name, side in found.items() if name in sides}


class Batch:
    """The evidence of one comparison in `runs` experiments. Sides: better, harm, and futile with a `min_effect`.

    `margin` and `min_effect` are on the score's scale; `sides` says which of the three are wanted. `moments` holds n,
    sum and sum of squares (last axis) of control and challenger (middle axis).
    """

    def __init__(
        self, runs: int, *, margin: float = 0.0, min_effect: float | None = None, sides: Sequence[str] = SIDES
    ) -> None:
        self.moments = np.zeros((runs, 2, 3))
        self.sides = _bettors(runs, margin, min_effect, sides)

    def fold(self, w: ArrayLike, y: ArrayLike, pi: ArrayLike, count: ArrayLike = 1.0) -> dict[str, Floats]:
        """Log e-values of each side after each column of one block, the columns of a run under centres set before it.

        `w` and `y` are runs by columns, `pi` and `count` broadcast to that. A `count` of 0 leaves a column out.
        """
        arm, score, share, times = (np.asarray(part, dtype=np.float64) for part in (w, y, pi, count))
        share = np.broadcast_to(share, (len(arm), share.shape[-1] if share.ndim else 1))
        centre, scale = self.forecast(share)
        found = {name: side.fold(arm, score, share, times, centre, scale) for name, side in self.sides.items()}
        self._absorb(arm, score, np.broadcast_to(times, arm.shape))
        return found

    def forecast(self, pi: Floats) -> tuple[Floats, Floats]:
        """Centre and scale of every run, as `betting.forecast`."""
        (n_0, total_0, _), (n_1, total_1, _) = np.moveaxis(self.moments, 0, -1)[..., None]
        n, total, squares = self.moments.sum(axis=1).T[..., None]
        pooled = (total + 0.5) / (n + 1)
        expected = pi * (total_1 + pooled) / (n_1 + 1) + (1 - pi) * (total_0 + pooled) / (n_0 + 1)
        centre = np.clip(expected, *CENTRE_RANGE)
        scatter = np.maximum(0, squares - 2 * centre * total + n * centre * centre)
        return centre, np.maximum(LEAST_SCALE, (scatter + centre * (1 - centre)) / (n + 1))

    def keep(self, runs: NDArray[np.bool_]) -> None:
        """Go on with some of the runs only."""
        self.moments = self.moments[runs]
        for side in self.sides.values():
            side.capital = side.capital[runs]

    def _absorb(self, w: Floats, y: Floats, count: Floats) -> None:
        for arm in (0, 1):
            here = count * (w == arm)
            self.moments[:, arm] += np.stack([here.sum(1), (here * y).sum(1), (here * y * y).sum(1)], axis=1)


class PairBatch:
    """The evidence of one comparison by pairs in `runs` experiments; see `Batch`, and `pairs` for what it stands for.

    `moments` holds the number of pairs and the sum of the squares of their differences.
    """

    def __init__(
        self, runs: int, *, margin: float = 0.0, min_effect: float | None = None, sides: Sequence[str] = SIDES
    ) -> None:
        self.moments = np.zeros((runs, 2))
        self.sides = _bettors(runs, margin, min_effect, sides)

    def fold(self, d: ArrayLike, count: ArrayLike = 1.0) -> dict[str, Floats]:
        """Log e-values of each side after each column of one block, under bets set before it.

        `d`, runs by columns, is by how much the challenger's answer scored better; `count` broadcasts to that.
        """
        apart = np.asarray(d, dtype=np.float64)
        times = np.broadcast_to(np.asarray(count, dtype=np.float64), apart.shape)
        n, squares = self.moments.T[..., None]
        scale = np.maximum(LEAST_SCALE, (squares + IMAGINED / 4) / (n + IMAGINED))
        found = {name: side.fold_pairs(apart, times, scale) for name, side in self.sides.items()}
        self.moments += np.stack([times.sum(axis=1), (times * apart * apart).sum(axis=1)], axis=1)
        return found

    def keep(self, runs: NDArray[np.bool_]) -> None:
        """Go on with some of the runs only."""
        self.moments = self.moments[runs]
        for side in self.sides.values():
            side.capital = side.capital[runs]


class Logs:
    """The evidence of one comparison on an unbounded metric: `ratio`'s score process, with the spread taken as known.

    Sums of log values are drawn as normal. `improvement` is the true log ratio, more being better.
    """

    def __init__(
        self, runs: int, improvement: float, deviation: float, *, margin: float, min_effect: float | None
    ) -> None:
        self._improvement, self._deviation = improvement, deviation
        self._nulls = {"better": (-math.log1p(margin), 1), "harm": (-math.log1p(margin), -1)}
        if min_effect is not None:
            self._nulls["futile"] = (math.log1p(min_effect), -1)
        self._weight, self._sum, self._units = np.zeros(runs), np.zeros(runs), np.zeros((runs, 2))

    def fold(
        self,
        rng: np.random.Generator,  # noqa: TID251 -- seeded by its caller
        control: NDArray[np.int64],
        challenger: NDArray[np.int64],
    ) -> dict[str, Floats]:
        """Log e-values after so many more units per arm, each block a stratum of its own; 0 while there are too few."""
        weight = control * challenger / np.maximum(1, control + challenger)
        self._sum += rng.normal(self._improvement * weight, self._deviation * np.sqrt(weight))
        self._weight += weight
        self._units += np.stack([control, challenger], axis=1)
        variance = self._deviation**2 + NOISE**2
        information, rho = self._weight / variance, 1 / (TAU**2 * variance)
        trusted = (self._units >= LEAST_UNITS).all(axis=1)
        found = {}
        for side, (null, sign) in self._nulls.items():
            t, whole = sign * (self._sum - null * self._weight) / variance, information + rho
            log_e = math.log(2) + 0.5 * np.log(rho / whole) + t * t / (2 * whole) + log_ndtr(t / np.sqrt(whole))
            found[side] = np.where(trusted, log_e, 0.0)
        return found

    def keep(self, runs: NDArray[np.bool_]) -> None:
        """Go on with some of the runs only."""
        self._weight, self._sum, self._units = self._weight[runs], self._sum[runs], self._units[runs]
