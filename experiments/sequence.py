"""How strong the evidence of each experiment in an endless series must be, so that few promotions are false.

e-LOND (Xu & Ramdas 2024, *Online multiple testing with e-values*): the t-th experiment promotes when E ≥ 1/α_t with

    α_t = α · γ_t · (R_{t−1} + 1),    Σ γ_t = 1

where R_{t−1} counts the promotions before it. The false discovery rate is at most α at every t, however the experiments
depend on each other: candidates compiled from shared feedback do. α_t is fixed when experiment t starts.
"""

import math

_SLOW = 2.109742801236892
"""Σ 1/(k ln²k) over k ≥ 2 (OEIS A115563)."""
_LEVEL = 0.8519291492623479
"""Σ 1/(k+5)^1.5 over k ≥ 1: the Hurwitz zeta function ζ(3/2, 6)."""


def share(t: int) -> float:
    """γ_t, the part of α that experiment `t` = 1, 2, ... may spend before any promotion.

    Half of it ∝ 1/((t+1) ln²(t+1)), which gives the first experiment a quarter of α and never runs dry; half of it
    ∝ (t+5)^−1.5, which leaves the next thousand one nat more than the former alone would. Raises: ValueError below 1.
    """
    if t < 1:
        raise ValueError(f"t: experiments are numbered from 1, not {t}")
    return 0.5 / ((t + 1) * math.log(t + 1) ** 2) / _SLOW + 0.5 * math.pow(t + 5, -1.5) / _LEVEL


def level(alpha: float, t: int, rejections: int) -> float:
    """α_t, after `rejections` promotions among the experiments before the `t`-th."""
    return alpha * share(t) * (rejections + 1)


def wealth(alpha: float, t: int, rejections: int) -> float:
    """The sum of all levels after the `t`-th experiment (0: none yet), should none of those promote."""
    return alpha * (rejections + 1) * max(0.0, 1 - math.fsum(share(past) for past in range(1, t + 1)))
