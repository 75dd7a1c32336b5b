"""Whether the arms received the units they should have: sample-ratio mismatch, and parity of arrivals.

An exact e-process, valid under continuous looking and any ramp (in the spirit of Lindon & Malek 2011.03567). Among the
units of a challenger and its control, a unit is the challenger's with probability p, from the split in force when it
entered. Against that stands every tilt θ of its log odds,

    p_θ = p e^θ / (1 − p + p e^θ)        E = Σ_θ v_θ Π_i (p_θ or 1 − p_θ) / (p or 1 − p)

with weights v ∝ N(0, 0.1²) on [−0.5, 0.5]. Several challengers: each against the control, on the units of the two, and
then averaged; a unit of another arm leaves a pair's capital alone, so every pair, and their average, is a martingale.

Every unit counts once: at its first exposure for the sample ratio, at its first outcome for arrivals. Counting it again
in later epochs would repeat one hash's imbalance.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from scipy.special import logsumexp

from experiments.capital import pack, unpack, untouched
from experiments.strata import Floats

TILTS: Floats = np.linspace(-0.5, 0.5, 41)
LOG_WEIGHTS: Floats = -0.5 * (TILTS / 0.1) ** 2 - logsumexp(-0.5 * (TILTS / 0.1) ** 2)


class Balance(msgspec.Struct, frozen=True):
    """Units counted per arm, `arms[0]` being the control, and the log capital of every challenger's pair with it.

    `capital` is little-endian float64, one row per pair and one column per tilt.
    """

    arms: tuple[str, ...]
    counts: tuple[int, ...]
    capital: bytes

    def fold(self, counts: Mapping[str, int], split: Mapping[str, float]) -> "Balance":
        """The evidence after `counts` units per arm that entered under `split`; what a mapping leaves out is 0."""
        capital = unpack(self.capital, len(TILTS))
        control, *challengers = self.arms
        for pair, challenger in enumerate(challengers):
            shares = split.get(challenger, 0.0), split.get(control, 0.0)
            if sum(shares) > 0:
                p = shares[0] / sum(shares)
                theirs = counts.get(challenger, 0)
                both = theirs + counts.get(control, 0)
                capital[pair] += theirs * TILTS - both * np.log1p(p * np.expm1(TILTS))
        totals = tuple(n + counts.get(arm, 0) for arm, n in zip(self.arms, self.counts, strict=True))
        return Balance(self.arms, totals, pack(capital))

    def log_e(self) -> float:
        """Log evidence that the arms' units are out of proportion; 0 without any."""
        pairs = len(self.arms) - 1
        return float(logsumexp(unpack(self.capital, len(TILTS)) + LOG_WEIGHTS) - logsumexp(LOG_WEIGHTS) - np.log(pairs))

    def totals(self) -> dict[str, int]:
        """Units counted, by arm."""
        return dict(zip(self.arms, self.counts, strict=True))


def begin(arms: Sequence[str]) -> Balance:
    """No evidence yet; control first. Raises: ValueError for fewer than two arms."""
    if len(arms) < 2 or len(set(arms)) != len(arms):
        raise ValueError("arms: needs a control and at least one challenger, each once")
    return Balance(tuple(arms), (0,) * len(arms), untouched(len(arms) - 1, len(TILTS)))
