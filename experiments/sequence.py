"""How strong the evidence of each experiment in an endless series must be, so that few promotions are false.

e-LOND (Xu & Ramdas 2024, *Online multiple testing with e-values*): the t-th experiment promotes when E ≥ 1/α_t with

    α_t = α · γ_t · (R_{t−1} + 1),    Σ γ_t = 1

where R_{t−1} counts the promotions before it. The false discovery rate is at most α at every t, however the experiments
depend on each other: candidates compiled from shared feedback do. α_t is fixed when experiment t starts.
"""

import math

_WHOLE = 2.109742801236892
"""Σ 1/(k ln²k) over k ≥ 2 (OEIS A115563)."""


def share(t: int) -> float:
    """γ_t ∝ 1/((t+1) ln²(t+1)), the part of α that experiment `t` = 1, 2, ... may spend before any promotion.

    Front-loaded: the first gets half of it, and it falls so slowly that the hundredth needs no more than twice the
    evidence, in nats, of the first. Raises: ValueError below 1.
    """
    if t < 1:
        raise ValueError(f"t: experiments are numbered from 1, not {t}")
    return 1 / ((t + 1) * math.log(t + 1) ** 2) / _WHOLE


def level(alpha: float, t: int, rejections: int) -> float:
    """α_t, after `rejections` promotions among the experiments before the `t`-th."""
    return alpha * share(t) * (rejections + 1)


def wealth(alpha: float, t: int, rejections: int) -> float:
    """The sum of all levels after the `t`-th experiment (0: none yet), should none of those promote."""
    return alpha * (rejections + 1) * max(0.0, 1 - math.fsum(share(past) for past in range(1, t + 1)))
