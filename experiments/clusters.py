"""All predictions of sticky units, one cluster per unit: the score process, told beside the test that decides.

The closed units of `experiments/folding.py` use a unit's first five predictions and are exact. This uses all of them,
each unit at the weight of at most `CAP` predictions, so that a few busy users do not speak for everybody. With the
logged probability π of the challenger, a centre m and ψ_u = w_u Σ_i (W_i − π_i)(Y_i − m) for unit u,

    S = Σ_u ψ_u     Q = Σ_u ψ_u²     D = Σ_u w_u Σ_i π_i(1 − π_i)     Δ̂ = S/D     I = D²/Q
    Δ̂ ± √((I + ρ) ln((I + ρ)/(ρ a²))) / I

The asymptotic confidence sequence of Waudby-Smith et al. 2103.06476, with the information I for intrinsic time and
ρ = 1/τ². A unit's own predictions depend on each other in ways that no theorem here covers: it is shown, and decides
nothing.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from experiments.folding import Splits

CAP = 5
FEWEST = 100
"""Units that each arm needs before a number is told."""
HEAVIEST = 0.05
"""The most that one unit may have of Q."""
TAU = 0.1
"""The effect the interval is sharpest at, in standard deviations of the score."""


class UnitSum(msgspec.Struct, frozen=True):
    """One unit's scored predictions in one arm and epoch: how many, and the sum of their scores in [0, 1]."""

    unit_hash: str
    arm: str
    epoch: int
    n: int
    total: float


class Clustered(msgspec.Struct, frozen=True, kw_only=True):
    """Challenger minus champion over all predictions, in scores. `units` counts the clusters of each arm.

    Without numbers, `refused` says why.
    """

    units: dict[str, int]
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    refused: str | None = None


def weigh(sums: Iterable[UnitSum], splits: Splits, champion: str, challenger: str, alpha: float) -> Clustered:
    """The score process of one comparison, with a two-sided 1 − `alpha` confidence sequence."""
    mine = [row for row in sums if row.arm in (champion, challenger)]
    units = {arm: len({row.unit_hash for row in mine if row.arm == arm}) for arm in (champion, challenger)}
    if min(units.values()) < FEWEST:
        return Clustered(units=units, refused=f"fewer than {FEWEST} units in an arm")
    psi, information = _clusters(mine, splits, champion, challenger)
    spread = math.fsum(value * value for value in psi)
    if not spread or max(value * value for value in psi) > HEAVIEST * spread:
        return Clustered(units=units, refused=f"one unit has more than {HEAVIEST:.0%} of the variance")
    estimate, time = math.fsum(psi) / information, information**2 / spread
    rho = 1 / (TAU**2 * _variance(mine))
    radius = math.sqrt((time + rho) * math.log((time + rho) / (rho * alpha**2))) / time
    return Clustered(units=units, estimate=estimate, lower=estimate - radius, upper=estimate + radius)


def _clusters(rows: list[UnitSum], splits: Splits, champion: str, challenger: str) -> tuple[list[float], float]:
    """ψ of every unit, and D."""
    seen: Mapping[str, list[UnitSum]] = defaultdict(list)
    for row in rows:
        seen[row.unit_hash].append(row)
    centre = _mean(rows)
    psi, information = [], 0.0
    for mine in seen.values():
        weight = min(1.0, CAP / sum(row.n for row in mine))
        score = 0.0
        for row in mine:
            shares = splits[row.epoch][champion], splits[row.epoch][challenger]
            pi = shares[1] / sum(shares)
            score += (float(row.arm == challenger) - pi) * (row.total - row.n * centre)
            information += weight * row.n * pi * (1 - pi)
        psi.append(weight * score)
    return psi, information


def _mean(rows: list[UnitSum]) -> float:
    return math.fsum(row.total for row in rows) / sum(row.n for row in rows)


def _variance(rows: list[UnitSum]) -> float:
    """Of a score in [0, 1] with this mean: at most m(1 − m), which it is for a binary one."""
    mean = _mean(rows)
    return max(0.01, mean * (1 - mean))
