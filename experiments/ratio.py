"""Two arms on a positive metric without a greatest value: latency, cost, and the like, compared as a ratio.

The normal-mixture score process on z = log value, in information time. With the stratified difference Δ̂ of means of z,
its information I = 1/Var(Δ̂), a null Δ₀ and ρ = 1/τ²,

    log E = ln 2 + ½ ln(ρ/(I+ρ)) + t²/(2(I+ρ)) + ln Φ(t/√(I+ρ)),    t = I(Δ̂ − Δ₀)

(Howard et al. 1810.08240, the one-sided normal mixture; Waudby-Smith et al. 2103.06476 for estimated variances.)

This is *asymptotic*: in the limit of many units it ever reaches 1/α with probability α at most, and no theorem covers
small samples. Hence no number at all before LEAST_UNITS per arm, or while one unit weighs more than MOST_LEVERAGE. It
speaks about geometric means, which is what "10 % slower" means for a metric that varies over orders of magnitude.

Zeros have no logarithm. They are counted apart: an arm is *free* if it has only zeros, *priced* if at most MOST_ZEROS
of its values are. Two priced arms are compared on their positive values. A free arm is the smaller one of any two, with
certainty, and two free arms are as good as each other. Anything else yields no number.
"""

import math
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import log_ndtr

from experiments.strata import Contrast, Moments, Stratum, absorb, arms, contrast, group

TAU = 0.1
"""Scale of the mixture, in units of the standard deviation of log values: where the test is sharpest."""
NOISE = 0.1
"""Log values are taken to vary by this standard deviation more than they did: it lets constant values be compared, and
keeps the rare exception among them from deciding."""
LEAST_UNITS = 100
MOST_LEVERAGE = 0.05
MOST_ZEROS = 0.05
CERTAIN = 100.0
"""The log evidence of what needs no test: nothing is less than something. Finite, and above any threshold in use."""


class Ratio(msgspec.Struct, frozen=True, kw_only=True, tag="ratio"):
    """The evidence of one comparison, in constant space; `begin` makes the first, `fold` the next.

    `margin` and `min_effect` are ratios less one: 0.1 is "ten percent". `zeros` counts control's and challenger's.
    """

    margin: float
    min_effect: float | None
    lower_is_better: bool
    strata: tuple[Stratum, ...] = ()
    zeros: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin: {self.margin!r} is not a ratio of at least 0 such as 0.1")
        if self.min_effect is not None and not 0 < self.min_effect < math.inf:
            raise ValueError(f"min_effect: {self.min_effect!r} is not a ratio above 0 such as 0.1")

    def fold(self, w: ArrayLike, y: ArrayLike, pi: ArrayLike) -> "Ratio":
        """The evidence after one block of units, one row each; the order of the rows makes no difference, bit for bit.

        `w` says whether the row is the challenger's, `y` is its value, at least 0, `pi` the logged probability of the
        challenger given one of these two arms. Raises: ValueError for rows outside these ranges.
        """
        arm, value, share = (np.asarray(column, dtype=np.float64) for column in (w, y, pi))
        if not (np.isfinite(value) & (value >= 0)).all():
            raise ValueError("y must be finite and at least 0")
        there = value > 0
        block = group(arm[there], np.log(value[there]), share[there])
        none = arm[~there]
        zeros = (self.zeros[0] + int((none == 0).sum()), self.zeros[1] + int((none == 1).sum()))
        return msgspec.structs.replace(self, strata=absorb(self.strata, block), zeros=zeros)

    def log_e_better(self) -> float | None:
        """Log evidence against "worse by the margin or more"; None while no number can be trusted."""
        return _log_e(self, -math.log1p(self.margin), upward=True)

    def log_e_harm(self) -> float | None:
        """Log evidence against "worse by the margin at most"; None while no number can be trusted."""
        return _log_e(self, -math.log1p(self.margin), upward=False)

    def log_e_futile(self) -> float | None:
        """Log evidence against "better by min_effect or more"; None without one, or while no number can be trusted."""
        return None if self.min_effect is None else _log_e(self, math.log1p(self.min_effect), upward=False)

    def means(self) -> tuple[Moments, Moments]:
        """The moments of the logarithms of the positive values, control and challenger."""
        return arms(self.strata)

    def estimate(self) -> float | None:
        """Challenger's geometric mean over control's, less one; None unless both have positive values."""
        found = contrast(self.strata)
        return None if found is None else _less_one(found.difference)

    def estimate_debiased(self) -> float | None:
        """The same, shrunk by the mixture's own prior N(0, τ²); None while no number can be trusted."""
        found = _trusted(self)
        if found is None:
            return None
        information, prior = _information(found)
        return _less_one(found.difference * information / (information + prior))

    def interval(self, alpha: float) -> tuple[float, float] | tuple[None, None]:
        """1 − `alpha` confidence sequence of the ratio less one, inverting the same evidence at `alpha`/2 a side."""
        found = _trusted(self)
        if found is None:
            return None, None
        information, prior = _information(found)
        level = math.log(2 / alpha)
        # E >= level needs t^2/(2(I+rho)) of level + ln((I+rho)/rho)/2 at most, since Phi >= 1/2 for t >= 0.
        most = math.sqrt(2 * (information + prior) * (level + 0.5 * math.log1p(information / prior))) + 1
        reach = (
            brentq(lambda t: _mixture(t, information, prior) - level, 0.0, most, xtol=1e-12, rtol=1e-14) / information
        )
        return _less_one(found.difference - reach), _less_one(found.difference + reach)


def begin(*, margin: float = 0.0, min_effect: float | None = None, lower_is_better: bool = True) -> Ratio:
    """No evidence yet. `margin`: how many times worse, less one, still passes; `min_effect` likewise for better."""
    return Ratio(margin=margin, min_effect=min_effect, lower_is_better=lower_is_better)


def _log_e(state: Ratio, null: float, *, upward: bool) -> float | None:
    """Evidence that the improvement (a log ratio, more is better) lies above, or below, `null`."""
    known = _known_improvement(state)
    if known is not None:
        gap = known - null if upward else null - known
        return math.copysign(CERTAIN, gap) if gap else 0.0
    found = _trusted(state)
    if found is None:
        return None
    information, prior = _information(found)
    improvement = -found.difference if state.lower_is_better else found.difference
    return _mixture(information * (improvement - null if upward else null - improvement), information, prior)


def _mixture(t: float, information: float, prior: float) -> float:
    whole = information + prior
    return math.log(2) + 0.5 * math.log(prior / whole) + t * t / (2 * whole) + float(log_ndtr(t / math.sqrt(whole)))


def _information(found: Contrast) -> tuple[float, float]:
    """I = D/s² and ρ = 1/(TAU·s)², with s² the variance of log values within arms."""
    variance = found.scatter / found.weight + NOISE**2
    return found.weight / variance, 1 / (TAU**2 * variance)


def _trusted(state: Ratio) -> Contrast | None:
    """The contrast of two priced arms, None while they are too few, not priced, or hang on one unit."""
    if _kinds(state) != ("priced", "priced"):
        return None
    found = contrast(state.strata)
    if found is None:
        return None
    steady = found.leverage * found.scatter <= MOST_LEVERAGE * (found.scatter + NOISE**2 * found.weight)
    return found if steady else None


def _known_improvement(state: Ratio) -> float | None:
    """The improvement that needs no test: none between two free arms, endless between a free and a priced one."""
    kinds = _kinds(state)
    if kinds == ("free", "free"):
        return 0.0
    if kinds == ("priced", "free"):
        return math.inf if state.lower_is_better else -math.inf
    if kinds == ("free", "priced"):
        return -math.inf if state.lower_is_better else math.inf
    return None


def _kinds(state: Ratio) -> tuple[Literal["free", "priced"] | None, ...]:
    """What each arm is, control first; None for too few units or too many zeros among them."""
    return tuple(_kind(arm.n, zeros) for arm, zeros in zip(arms(state.strata), state.zeros, strict=True))


def _kind(positive: int, zeros: int) -> Literal["free", "priced"] | None:
    if positive + zeros < LEAST_UNITS:
        return None
    if not positive:
        return "free"
    return "priced" if positive >= LEAST_UNITS and zeros <= MOST_ZEROS * (positive + zeros) else None


def _less_one(log_ratio: float) -> float:
    return math.expm1(min(log_ratio, 700.0))
