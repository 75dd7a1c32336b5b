"""How strong the evidence of each experiment in an endless series must be, so that few promotions are false.

The t-th experiment promotes when E ≥ 1/α_t. With R promotions before it, e-LOND (Xu & Ramdas 2024, *Online multiple
testing with e-values*) grants α_t = α · γ_t · (R + 1), where Σ γ_t = 1. Its closure grants as much or more (principle:
Xu et al. 2025, *Bringing closure to false discovery rate control*; for series: 2603.24792). With e_i = 1/α_i for an
experiment i that promoted and 0 for any other, which is no more than its e-value was, and with γ counted within each
set, α_t is the greatest level at which

    Σ_k γ_k e_(S,k) ≥ (promotions in S) / (α · (R + 1))    for every set S = {S,1 < S,2 < ... < t} that ends in t,

where t counts as a promotion with e_t = 1/α_t. For the set of all experiments without a better challenger the left side
is an e-value, and so the false discovery rate is at most α at every t, however the experiments depend on each other:
candidates compiled from shared feedback do. α_t is fixed when experiment t starts.
"""

import math
from collections.abc import Sequence

import numpy as np

_SLOW = 2.109742801236892
"""Σ 1/(k ln²k) over k ≥ 2 (OEIS A115563)."""
_EARLY = 0.2
_HALF = 30
"""So many experiments may spend half of what is not kept for the early ones."""


def share(t: int) -> float:
    """γ_t, the part of α that experiment `t` = 1, 2, ... may spend before any promotion.

    A fifth of it ∝ 1/((t+1) ln²(t+1)), which gives the first experiment an eighth of α and never runs dry; the rest
    30/((t+30)(t+29)), which treats the next hundred almost alike. Raises: ValueError below 1.
    """
    if t < 1:
        raise ValueError(f"t: experiments are numbered from 1, not {t}")
    early = 1 / ((t + 1) * math.log(t + 1) ** 2) / _SLOW
    return _EARLY * early + (1 - _EARLY) * _HALF / ((t + _HALF) * (t + _HALF - 1))


def level(alpha: float, past: Sequence[float | None]) -> float:
    """α_t of the experiment that follows `past`: for each one before, the level it promoted at, None for the others."""
    shares = np.array([share(n) for n in range(1, len(past) + 2)])
    needed = 1 / (alpha * (1 + sum(promoted is not None for promoted in past)))
    # By number of members, the least that a set of past experiments has beyond what its promotions need.
    beyond = np.array([0.0] + [math.inf] * len(past))
    for promoted in past:
        brought = 0.0 if promoted is None else shares[:-1] / promoted - needed
        beyond[1:] = np.minimum(beyond[1:], beyond[:-1] + brought)
    lacking = needed - beyond
    return float((shares[lacking > 0] / lacking[lacking > 0]).min())


def wealth(alpha: float, t: int, rejections: int) -> float:
    """The least that all levels after the `t`-th (0: none yet) sum to, should none of those experiments promote."""
    return alpha * (rejections + 1) * max(0.0, 1 - math.fsum(share(past) for past in range(1, t + 1)))
