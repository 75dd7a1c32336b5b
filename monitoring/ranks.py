"""Latencies and costs as scores in [0, 1]: by their rank among the first ones.

The score of x is 1 less its mid-rank in a frozen reference, so no unit of measurement and no transformation that keeps
the order makes a difference: dollars or cents, seconds or their logarithm. As long as x is distributed like the n
values of the reference its score expects to be ½, give or take the √(1/(12 n)) by which the reference itself is off.
A mean of ranks is blind to a tail: a second score is whether x keeps to the reference's 99 % quantile.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from functools import cached_property

import msgspec

from monitoring.arms import Arm, known_by
from monitoring.design import FLOOR, Design

REFERENCE = 2000
"""Values in a full reference."""
TAIL = 0.99
TOLERATED_TAIL = 0.0025
"""The share by which more values than before may be beyond the quantile: a quarter as many again."""
LEAST_TAIL = 0.003


Value = tuple[str, int, int]
"""The arm, the time in µs, and a latency in µs or a cost in picodollars."""


class Reference(msgspec.Struct, frozen=True, dict=True):
    """The first values of an arm, in rising order once there are `REFERENCE` of them. Integers: µs, picodollars."""

    values: tuple[int, ...] = ()

    @property
    def full(self) -> bool:
        """Whether values can be ranked; the reference never changes again."""
        return len(self.values) == REFERENCE

    def filled(self, values: Iterable[int]) -> "Reference":
        """The reference with more values, no more than it has room for."""
        joined = (*self.values, *values)
        return Reference(tuple(sorted(joined)) if len(joined) == REFERENCE else joined)

    def score(self, value: int) -> float:
        """1 for less than the whole reference, 0 for more, ½ in the middle. The reference is full."""
        below, upto = bisect_left(self.values, value), bisect_right(self.values, value)
        return 1.0 - (below + upto) / (2 * REFERENCE)

    def within(self, value: int) -> float:
        """1 for a value not beyond the reference's 99 % quantile, else 0. The reference is full."""
        return 1.0 if value <= self._quantile else 0.0

    @cached_property
    def _quantile(self) -> int:
        return self.values[math.ceil(TAIL * REFERENCE) - 1]

    def known_by(self, tail: Design) -> Arm:
        """What the reference tells of its own tail, for an arm to begin with. The reference is full."""
        return known_by(tail, REFERENCE, float(bisect_right(self.values, self._quantile)))


def absorb(known: dict[str, Reference], values: Iterable[Value]) -> tuple[dict[str, Reference], list[Value]]:
    """The arms' references after more values, and those of the values that came when their arm's was full."""
    references, waiting, ranked = dict(known), dict[str, list[int]](), []
    for arm, at, value in values:
        reference = references.get(arm, Reference())
        if reference.full:
            ranked.append((arm, at, value))
            continue
        queue = waiting.setdefault(arm, [])
        queue.append(value)
        if len(reference.values) + len(queue) == REFERENCE:
            references[arm] = reference.filled(waiting.pop(arm))
    for arm, queue in waiting.items():
        references[arm] = references.get(arm, Reference()).filled(queue)
    return references, ranked


def rank_design(base: Design, tolerated: float) -> Design:
    """How scores by rank are watched: against ½, less what is tolerated and what the reference may be off.

    One by one: a bet that could lose all on a score of 1 is too small to make the most of a block's mean.
    """
    null = max(FLOOR, 0.5 - tolerated - 2 * math.sqrt(1 / (12 * REFERENCE)))
    return msgspec.structs.replace(base, known=null, tolerated=tolerated, min_outcomes=1, block=1, bets=8)


def tail_design(base: Design) -> Design:
    """How the tail is watched: an arm begins as `known_by` its reference."""
    ceiling = 1 - TOLERATED_TAIL
    return msgspec.structs.replace(base, tolerated=TOLERATED_TAIL, least=LEAST_TAIL, ceiling=ceiling)
