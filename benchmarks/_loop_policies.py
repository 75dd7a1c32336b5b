"""What one may do about a world that changes: nothing, recompile blindly, test in the usual ways, or run this loop.

Every policy serves the same predictions hour by hour; what it loses is what the best program would have got right and
the one it served did not. `Ratchet` acts by this repository's drift detector, cycle, gate and decisions.
"""

import math

import numpy as np

from benchmarks import _peers as peers
from benchmarks._goals import seeded
from benchmarks._loop_trials import Trial, moment, over, promoted
from benchmarks._loop_worlds import BEST, DAY, HOUR, PER_HOUR, World
from experiments.metrics import Metric
from experiments.strata import Floats
from learning import cycle, gate
from learning.compiling import Measured
from learning.definitions import GateOptions, LearningOptions
from monitoring import signals
from monitoring.signals import Matured, Policy, ProgramDrift

COMPILE_HOURS = 1
COMPILE_DOLLARS = 5.0
MATURITY_HOURS = 6
FRESH = 300
"""Labels since the change that a compile asks for."""
HOLDOUT = 200
PER_ARM = 5000
LEARNING = LearningOptions(on=("drift",), min_fresh_labels=FRESH, cooldown="24h")
GOAL = Metric(kind="boolean", role="goal")


class Course:
    """How one policy fares in one world: what it lost, whom it promoted, how often it compiled."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.champion = world.first()
        self.lost = 0.0
        self.promotions = 0
        self.wrong = 0
        self.compiles = 0

    def run(self) -> "Course":
        """Serve and tick from the first hour to the last."""
        for hour in range(self.world.hours):
            self.serve(hour)
            self.tick(hour)
        return self

    def serve(self, hour: int) -> None:
        """Answer the predictions of an hour; here the champion does."""
        self.lost += PER_HOUR * (BEST - self.world.accuracy(self.champion, hour))

    def tick(self, hour: int) -> None:
        """Do something about it, or nothing."""

    def compile(self, hour: int) -> Floats:
        """A candidate from the feedback of this hour."""
        self.compiles += 1
        return self.world.candidate(self.champion, hour, self.compiles)

    def promote(self, challenger: Floats, hour: int) -> None:
        """Another champion, from the next hour on."""
        self.promotions += 1
        self.wrong += self.world.accuracy(challenger, hour) <= self.world.accuracy(self.champion, hour)
        self.champion = challenger


class Nothing(Course):
    """No learning."""


class Monthly(Course):
    """Recompiled every 30 days, and deployed without a look."""

    def tick(self, hour: int) -> None:
        if hour and hour % (30 * 24) == 0:
            self.promote(self.compile(hour), hour)


class Watched(Course):
    """A course on which this repository's detector watches whoever is champion, and its cycle says when to compile."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.names = ["v1"]
        self.policy = Policy(outcomes_per_day=24.0 * PER_HOUR * 0.8, predictions_per_day=24.0 * PER_HOUR)
        self.drift: ProgramDrift = signals.begin("v1", None, self.policy)
        self.served: list[tuple[str, Floats]] = []
        self.ended: int | None = None
        self.failures = 0

    @property
    def name(self) -> str:
        """The champion's."""
        return self.names[-1]

    def matured(self, hour: int) -> list[Matured]:
        """The predictions of an hour, as they stand once it has matured; those on trial are not the champion's."""
        name, champion = self.served[hour]
        right, span = self.world.right(champion, hour), range(hour * PER_HOUR, (hour + 1) * PER_HOUR)
        heard = self.world.delay[span.start : span.stop] <= MATURITY_HOURS * HOUR
        return [
            Matured(
                prediction_id=f"{index:08d}",
                at=moment(index),
                variant=name,
                error=False,
                labelled=bool(labelled),
                score=float(good) if labelled else None,
                latency=1000,
                cost=1000,
            )
            for index, good, labelled in zip(span, right, heard, strict=True)
        ]

    def serve(self, hour: int) -> None:
        super().serve(hour)
        self.served.append((self.name, self.champion))

    def look(self, hour: int) -> cycle.Plan:
        """Advance the detector to what has matured, and ask the cycle what to do."""
        if hour >= MATURITY_HOURS:
            self.drift = signals.advance(self.drift, self.policy, self.matured(hour - MATURITY_HOURS))
        return cycle.plan(self.situation(hour), LEARNING, (hour + 1) * HOUR)

    def situation(self, hour: int) -> cycle.Situation:
        """The facts the cycle goes by."""
        raise NotImplementedError
