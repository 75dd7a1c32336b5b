"""Adaptive allocation: the share of every arm follows the evidence, never below a floor.

An arm's share is its planned share times the odds that the evidence so far lays on it, the champion's being 1:

    w_k = share_k · E_k(better) / max_g E_kg(harm)        share ∝ max(w, floor)

so that a challenger that is winning gets traffic before the verdict, and one that is losing gives its traffic back. The
tests do not mind: a share is set from closed blocks only, holds for units that enter later, and is logged with each of
them, which is all that betting on the assignment coin assumes (Waudby-Smith et al. 2210.10768, adaptive propensities).
The floor keeps every arm measurable, and what can be learnt per unit is bounded by it: shares near one half tell most.
"""

import math
from collections.abc import Mapping

FLOOR = 0.2
"""What all arms together keep, whatever the evidence: each of n arms has a share of FLOOR/n at least."""
LEAST_CHANGE = 0.05
"""A share moves by this much, or nothing does: every split is an epoch, and an epoch is a stratum of the estimate."""


def shares(planned: Mapping[str, float], log_odds: Mapping[str, float]) -> dict[str, float]:
    """The shares that follow from `planned` ones and the log odds laid on arms (0 where none are given).

    An arm with a planned share of 0 stays at 0.
    """
    logs = {arm: math.log(share) + log_odds.get(arm, 0.0) for arm, share in planned.items() if share > 0}
    top = max(logs.values())
    weights = {arm: math.exp(log - top) for arm, log in logs.items()}
    floor, low = FLOOR / len(weights), set[str]()
    while True:
        rest = math.fsum(weight for arm, weight in weights.items() if arm not in low)
        scale = (1.0 - floor * len(low)) / rest
        below = {arm for arm, weight in weights.items() if arm not in low and weight * scale < floor}
        if not below:
            return {arm: _share(arm, weights, scale, floor, low) for arm in planned}
        low |= below


def _share(arm: str, weights: Mapping[str, float], scale: float, floor: float, low: set[str]) -> float:
    if arm not in weights:
        return 0.0
    return floor if arm in low else weights[arm] * scale


def moved(before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    """Whether any share differs enough to be worth another split."""
    return any(abs(before.get(arm, 0.0) - share) >= LEAST_CHANGE for arm, share in after.items())
