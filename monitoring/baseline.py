"""What a variant is held to: the score it has shown it can keep, as a null for the drift detector to bet against.

With n outcomes of mean p, the null is

    m = max(m_before, min(p − ε, Wilson_lower(p, n, z·√deff)))        deff = max(1, B·Var(block means) / (p(1 − p)))

`m` lags behind p on purpose. An alarm's promise holds while the true score is at least m, and an over-estimate D of it
multiplies the rate of false alarms by about A^(2D/d): the mean of the best of five equal arms, taken as it is, alarms in
84 of 100 cases. `m` never falls: a slow decay is not learned as the new normal, it is measured against the best that was
ever certain.

Wilson 1927 (doi 10.1080/01621459.1927.10502953), for clustered outcomes by Kish's design effect, deff.
"""

import math

import msgspec

RANGE = (0.02, 0.98)
"""Nulls lie in here. A variant that cannot be held to the lower end has nothing to lose: no bet is made on it."""
GROWTH = 1.2
"""The null is looked at anew whenever the outcomes have become this many times as many."""
LEAST_BLOCKS = 20
"""Blocks of our own before their variance says anything about bursts."""


class Baseline(msgspec.Struct, frozen=True):
    """`n` outcomes with the sum `s`, of which `blocks` were seen in blocks; `null` is m, None while there is none.

    `means` and `squares` sum the block means and their squares; the null is due for a look at `review_at` outcomes.
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
            raise ValueError(f"a baseline of {self.n} outcomes in [0, 1] cannot have the sum {self.s!r}")

    @property
    def mean(self) -> float | None:
        """The mean score, None without outcomes."""
        return self.s / self.n if self.n else None

    def absorb(self, count: int, total: float, *, tolerated: float, z: float, least: int) -> "Baseline":
        """The baseline after one block of `count` outcomes with the sum `total`; ε is `tolerated`.

        There is no null before `least` outcomes.
        """
        mean = total / count
        n, s = self.n + count, self.s + total
        blocks, means, squares = self.blocks + 1, self.means + mean, self.squares + mean * mean
        grown = Baseline(n, s, self.null, self.review_at, blocks, means, squares)
        return grown.reviewed(count, tolerated=tolerated, z=z, least=least) if n >= self.review_at else grown

    def reviewed(self, block: int, *, tolerated: float, z: float, least: int) -> "Baseline":
        """The baseline with its null as high as the outcomes allow, and not below what it was."""
        if self.n < least:
            return msgspec.structs.replace(self, review_at=least)
        p = self.s / self.n
        certain = wilson_lower(p, self.n, z * math.sqrt(self.design_effect(block)))
        null = min(p - tolerated, certain, RANGE[1])
        if self.null is not None:
            null = max(null, self.null)
        review_at = math.ceil(self.n * GROWTH)
        return msgspec.structs.replace(self, null=null if null >= RANGE[0] else None, review_at=review_at)

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
