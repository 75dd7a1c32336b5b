"""What an arm is held to: the score it has shown it can keep, as a null for the drift detector to bet against.

With n outcomes of mean p, the null is

    m = max(m_before, min(p − ε, Wilson_lower(p, n, z·√deff)))        deff = max(1, B·Var(block means) / (p(1 − p)))

`m` lags behind p on purpose. An alarm's promise holds while the true score is at least m, and to over-estimate it by δ
multiplies the rate of false alarms by about A^(2δ/d), d being the least fall bet on: the mean of the best of five equal
arms, taken as it is, alarms in 84 of 100 cases. `m` never falls: a slow decay is not learned as the new normal, it is
measured against the best that was ever certain.

Wilson 1927 (doi 10.1080/01621459.1927.10502953), widened for bursts by Kish's design effect, deff.
"""

import math

import msgspec

from monitoring.design import FLOOR, Design

GROWTH = 1.2
"""The null is looked at anew whenever the outcomes have become this many times as many."""
LEAST_BLOCKS = 20
"""Blocks of our own before their variance says anything about bursts."""


class Baseline(msgspec.Struct, frozen=True):
    """`n` outcomes with the sum `s`; `null` is m, None while there is none; it is due for a look at `review_at`.

    `blocks` blocks of these outcomes were seen one by one: `means` and `squares` sum their means and squared means.
    """

    n: int = 0
    s: float = 0.0
    null: float | None = None
    review_at: int = 0
    blocks: int = 0
    means: float = 0.0
    squares: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.s <= self.n:
            raise ValueError(f"{self.n} outcomes in [0, 1] cannot have the sum {self.s!r}")

    @property
    def mean(self) -> float | None:
        """The mean score, None without outcomes."""
        return self.s / self.n if self.n else None

    def reviewed(self, design: Design) -> "Baseline":
        """The baseline with its null as high as the outcomes allow, and not below what it was."""
        if self.n < design.min_outcomes:
            return msgspec.structs.replace(self, review_at=design.min_outcomes)
        p = self.s / self.n
        certain = wilson_lower(p, self.n, design.z * math.sqrt(self.design_effect(design.block)))
        null = min(p - design.tolerated, certain, design.ceiling)
        if self.null is not None:
            null = max(null, self.null)
        review_at = math.ceil(self.n * GROWTH)
        return msgspec.structs.replace(self, null=null if null >= FLOOR else None, review_at=review_at)

    def design_effect(self, block: int) -> float:
        """How many times wider than for independent outcomes the variance is, by the blocks' means; at least 1."""
        p = self.means / self.blocks if self.blocks else 0.0
        if self.blocks < LEAST_BLOCKS or not 0 < p < 1:
            return 1.0
        variance = (self.squares - self.means * p) / (self.blocks - 1)
        return max(1.0, block * variance / (p * (1 - p)))


def wilson_lower(p: float, n: int, z: float) -> float:
    """The lower end of Wilson's interval for a mean `p` of `n` outcomes, at `z` standard errors."""
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (p + z * z / (2 * n) - spread) / (1 + z * z / n)
