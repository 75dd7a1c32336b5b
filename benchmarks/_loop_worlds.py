"""Worlds for `make bench-loop`: users who come back, labels that come late, regimes that change, candidates by chance.

A regime is what the world is like for a while. Every variant has an accuracy in each regime; a change of regime takes
away what the champion had, and a candidate compiled from feedback of the new one gives back some of it, or does not.
All chance is drawn before any policy acts: policies are compared on the same users, coins, labels and candidates.
"""

import numpy as np

from benchmarks._goals import seeded
from experiments.quantities import SECOND
from experiments.strata import Floats

HOUR = 3600 * SECOND
DAYS = 60
PER_HOUR = 80
"""Predictions in an hour."""
SPACING = HOUR // PER_HOUR
"""µs from one prediction to the next."""
USERS = 20_000
BEST = 0.86
"""What the best program there could be gets right, in every regime."""
FIRST = BEST
"""What the first champion gets right in the regime it was made for."""
HEARD = 0.8
"""Share of predictions that are ever labelled."""
KINDS = ("abrupt", "gradual", "recurring")


class World:
    """One course of events: predictions in the order of time, PER_HOUR in each of DAYS * 24 hours.

    `users`, `chance` (a prediction is right when this falls below the variant's accuracy), `offset` (how much easier or
    harder the user's questions are), `delay` (µs until the label, infinite for none) have one entry per prediction.
    `mixture[h]` is the weight of each regime in hour h.
    """

    def __init__(self, kind: str, number: int) -> None:
        rng = seeded(f"loop world {kind} {number}")
        self.kind, self.number = kind, number
        self.hours = DAYS * 24
        n = self.hours * PER_HOUR
        weights = rng.pareto(1.5, USERS) + 0.2
        self.users = rng.choice(USERS, n, p=weights / weights.sum())
        self.offset = rng.normal(0, 0.08, USERS)[self.users]
        self.chance = rng.random(n)
        # Whether a label is late depends on how hard the question was, and so does whether the answer was right.
        hours = np.where(self.chance > 0.8, 2.0, 0.5) * rng.exponential(1.0, n)
        self.delay = np.where(rng.random(n) < HEARD, hours * HOUR, np.inf)
        self.mixture = _mixture(kind, rng, self.hours)
        self.changes = _changes(self.mixture)
        self.regimes = self.mixture.shape[1]
        self._drops: Floats = np.asarray(rng.uniform(0.05, 0.25, self.regimes))

    def first(self) -> Floats:
        """The first champion's accuracy in each regime."""
        return np.concatenate([[FIRST], FIRST - self._drops[1:]])

    def candidate(self, champion: Floats, hour: int, tries: int) -> Floats:
        """What the `tries`-th compile on feedback around this hour makes of the champion: its accuracy in each regime.

        Seven in ten give back half to all of what could be had in the regime of the hour; the others change little, for
        better or worse. What is learnt for one regime costs up to 10 points in the others.
        """
        here = int(self.mixture[hour].argmax())
        rng = seeded(f"candidate {self.kind} {self.number} {here} {tries}")
        lost = rng.uniform(0, 0.1, self.regimes)
        gained, dud = rng.uniform(0.5, 1.0) * (BEST - champion[here]), rng.normal(-0.02, 0.03)
        made = champion - lost * (np.arange(self.regimes) != here)
        made[here] = champion[here] + (gained if rng.random() < 0.7 else dud)
        return np.asarray(np.clip(made, 0.02, BEST))

    def accuracy(self, variant: Floats, hour: int) -> float:
        """How often a variant is right in this hour, over all users."""
        return float(self.mixture[hour] @ variant)

    def right(self, variant: Floats, hour: int) -> np.ndarray:
        """Which predictions of the hour the variant would get right."""
        span = slice(hour * PER_HOUR, (hour + 1) * PER_HOUR)
        return np.asarray(self.chance[span] < np.clip(self.accuracy(variant, hour) + self.offset[span], 0.01, 0.99))


def _mixture(kind: str, rng: np.random.Generator, hours: int) -> Floats:
    """The regimes' weights by hour: two changes at once or over five days, or there and back again."""
    at = np.sort(rng.uniform([8 * 24, 32 * 24], [20 * 24, 44 * 24]))
    took = 5 * 24 if kind == "gradual" else 1
    weights = np.zeros((hours, 2 if kind == "recurring" else 3))
    weights[:, 0] = 1
    for regime, begin in enumerate(at.astype(int), start=1):
        come = np.clip((np.arange(hours) - begin + 1) / took, 0, 1)[:, None]
        to = np.eye(weights.shape[1])[regime % weights.shape[1]]
        weights = (1 - come) * weights + come * to
    return weights


def _changes(mixture: Floats) -> list[int]:
    """The hours at which another regime begins to come."""
    moving = np.any(np.diff(mixture, axis=0) != 0, axis=1)
    return [int(hour) + 1 for hour in np.flatnonzero(moving) if hour == 0 or not moving[hour - 1]]
