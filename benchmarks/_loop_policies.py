"""What one may do about a world that changes: nothing, recompile blindly, test in the usual ways, or run this loop.

Every policy serves the same predictions hour by hour; what it loses is what the best program would have got right and
the one it served did not. `Ratchet` acts by this repository's drift detector, cycle, gate and decisions.
"""

import msgspec
import numpy as np

from benchmarks import _peers as peers
from benchmarks._goals import seeded
from benchmarks._loop_trials import Trial, over, promoted
from benchmarks._loop_worlds import BEST, HEARD, HOUR, PER_HOUR, SPACING, World
from experiments import sequence
from experiments.strata import Floats
from learning import cycle, gate
from learning.compile_runs import Measured
from learning.definitions import GateOptions, LearningOptions
from learning.states import State
from monitoring import signals
from monitoring.signals import Matured, Policy

ALPHA = 0.05
COMPILE_HOURS = 1
MATURITY_HOURS = 3
"""By then 95 in 100 of the labels that ever come are there, as the drift page advises."""
FRESH = 300
"""Labels since the change that a compile asks for."""
SEALED = 0.4
"""Share of the labels since the change that make up the holdout, at most the gate's 300."""
LARGEST_HOLDOUT = 300
PER_ARM = 5000
LEARNING = LearningOptions(on=("drift",), min_fresh_labels=FRESH, cooldown="24h")
GOOD_ENOUGH = 0.03
"""How far below the best the clairvoyant no longer tries."""
STATE: State = {"predict": {"instructions": "Answer.", "demos": []}}


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
    """A course on which this repository's detector watches the champion, and its cycle says when to compile."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.names = ["v1"]
        self.served: list[tuple[str, Floats]] = []
        self.policy = Policy(outcomes_per_day=24.0 * PER_HOUR * HEARD, predictions_per_day=24.0 * PER_HOUR)
        self.drift = signals.begin("v1", None, self.policy)
        self.alarm: cycle.Alarm | None = None
        self.ended: int | None = None
        self.trial: Trial | None = None
        self.holdout = LARGEST_HOLDOUT

    def serve(self, hour: int) -> None:
        super().serve(hour)
        self.served.append((self.names[-1], self.champion))

    def tick(self, hour: int) -> None:
        if hour >= MATURITY_HOURS:
            cohort = self.matured(hour - MATURITY_HOURS)
            self.drift = signals.advance(self.drift, self.policy, cohort)
        situation = self.situation(hour)
        if isinstance(cycle.plan(situation, LEARNING, end_of(hour)), cycle.Compile):
            assert situation.alarm is not None
            self.alarm = msgspec.structs.replace(situation.alarm, tries=situation.alarm.tries + 1, answer="run")
            self.holdout = min(LARGEST_HOLDOUT, int(SEALED * situation.labels_since_change))
            self.answer(self.compile(hour), hour)

    def answer(self, candidate: Floats, hour: int) -> None:
        """What becomes of a candidate; here it is deployed."""
        self.promote(candidate, hour)
        self.settle(hour, promoted=True)

    def settle(self, hour: int, *, promoted: bool, prior: tuple[int, float] | None = None) -> None:
        """The run is over: watch the new champion, or live with the old one."""
        self.ended = end_of(hour)
        if promoted:
            self.alarm = None
            self.names.append(f"v{len(self.names) + 1}")
            self.drift = signals.promoted(self.drift, self.names[-1], prior, self.policy)
        else:
            self.drift = signals.acknowledged(self.drift, self.policy)

    def situation(self, hour: int) -> cycle.Situation:
        """The facts the cycle goes by."""
        alarm = self.open_alarm()
        return cycle.Situation(
            alarm=alarm,
            labels_since_change=self.heard(alarm.since, hour) if alarm else 0,
            experiment="running" if self.trial else None,
            last_finished=self.ended,
        )

    def open_alarm(self) -> cycle.Alarm | None:
        """The alarm that is raised, or the one that was answered in vain while the score stays below its floor."""
        if (raised := signals.alarms(self.drift).get("score")) is not None:
            return cycle.Alarm(at=raised.at, since=raised.change_point)
        if self.alarm is None:
            return None
        readings = signals.readings(self.drift, self.policy)
        score = next((one for one in readings if (one.variant, one.signal) == (self.names[-1], "score")), None)
        fallen = score is not None and score.floor is not None and score.score is not None and score.score < score.floor
        return msgspec.structs.replace(self.alarm, lasting=fallen)

    def heard(self, since: int, hour: int) -> int:
        """How many predictions since a moment (µs) are labelled by the end of the hour."""
        made = np.arange(-(-since // SPACING), (hour + 1) * PER_HOUR)
        return int((made * SPACING + self.world.delay[made] <= end_of(hour)).sum())

    def matured(self, hour: int) -> list[Matured]:
        """The predictions of an hour as they stand once they have matured."""
        name, champion = self.served[hour]
        span = range(hour * PER_HOUR, (hour + 1) * PER_HOUR)
        heard = self.world.delay[span.start : span.stop] <= MATURITY_HOURS * HOUR
        return [
            Matured(
                prediction_id=f"{index:08d}",
                at=index * SPACING,
                variant=name,
                error=False,
                labelled=bool(labelled),
                score=float(good) if labelled else None,
                latency=1000,
                cost=1000,
            )
            for index, good, labelled in zip(span, self.world.right(champion, hour), heard, strict=True)
        ]


class Ratchet(Watched):
    """The whole loop: what the detector and the cycle ask for passes the gate, and then an experiment."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.past: list[float | None] = []

    def serve(self, hour: int) -> None:
        self.served.append((self.names[-1], self.champion))
        self.lost += serve_trial(self, hour)

    def tick(self, hour: int) -> None:
        super().tick(hour)
        if self.trial is not None and self.trial.start <= hour:
            ruling = self.trial.tick(hour)
            if over(ruling):
                self.conclude(hour, won=promoted(ruling))

    def answer(self, candidate: Floats, hour: int) -> None:
        if self.admitted(candidate, hour):
            level = sequence.level(ALPHA, self.past)
            self.trial = Trial(self.world, self.champion, candidate, hour + COMPILE_HOURS, level)
        else:
            self.settle(hour, promoted=False)

    def conclude(self, hour: int, *, won: bool) -> None:
        """The experiment has ended."""
        trial, self.trial = self.trial, None
        assert trial is not None
        self.past.append(trial.level if won else None)
        if won:
            self.promote(trial.accuracy["challenger"], hour)
        self.settle(hour, promoted=won, prior=trial.known("challenger"))

    def admitted(self, candidate: Floats, hour: int) -> bool:
        """Whether the gate lets a candidate through, from paired answers to examples of the hour."""
        rng = seeded(f"holdout {self.world.kind} {self.world.number} {self.compiles}")
        chance = rng.random(self.holdout)
        scores = [chance < self.world.accuracy(variant, hour) for variant in (self.champion, candidate)]
        measured = [
            Measured(
                prediction_id=str(place),
                baseline=float(before),
                candidate=float(after),
                baseline_cost=1000,
                candidate_cost=1000,
                baseline_latency=1000,
                candidate_latency=1000,
            )
            for place, (before, after) in enumerate(zip(*scores, strict=True))
        ]
        return gate.judge(measured, champion=STATE, candidate=STATE, options=GateOptions()).admitted


class Clairvoyant(Ratchet):
    """Knows of a change the moment it happens and has a candidate at once; it must still test it, and try again."""

    def tick(self, hour: int) -> None:
        if self.trial is not None and self.trial.start <= hour:
            ruling = self.trial.tick(hour)
            if over(ruling):
                self.conclude(hour, won=promoted(ruling))
        behind = self.champion[self.world.mixture[hour].argmax()] < BEST - GOOD_ENOUGH
        if self.trial is None and behind and hour + 1 < self.world.hours:
            self.answer(self.compile(hour), hour)


class FixedHorizon(Watched):
    """On an alarm, an A/B test of 5,000 predictions per arm, read once at its end: z > 1.96 deploys."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.candidate: Floats | None = None
        self.counts = np.zeros((2, 3))

    def answer(self, candidate: Floats, hour: int) -> None:
        del hour
        self.candidate, self.counts = candidate, np.zeros((2, 3))

    def serve(self, hour: int) -> None:
        self.served.append((self.names[-1], self.champion))
        if self.candidate is None:
            self.lost += PER_HOUR * (BEST - self.world.accuracy(self.champion, hour))
        else:
            self.lost += split_evenly(self.world, (self.champion, self.candidate), self.counts, hour)

    def tick(self, hour: int) -> None:
        super().tick(hour)
        if self.candidate is not None and self.counts[:, 0].min() >= PER_ARM:
            won = bool(peers.naive(self.counts[0], self.counts[1]))
            if won:
                self.promote(self.candidate, hour)
            self.candidate = None
            self.settle(hour, promoted=won)

    def situation(self, hour: int) -> cycle.Situation:
        found = super().situation(hour)
        return msgspec.structs.replace(found, experiment="running" if self.candidate is not None else None)


class TrackAndStop(Course):
    """TensorZero's published rule, half the traffic to each arm, with a candidate handed to it at every change."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.candidate: Floats | None = None
        self.counts = np.zeros((2, 3))

    def serve(self, hour: int) -> None:
        if self.candidate is None:
            super().serve(hour)
        else:
            self.lost += split_evenly(self.world, (self.champion, self.candidate), self.counts, hour)

    def tick(self, hour: int) -> None:
        if hour in self.world.changes:
            self.candidate, self.counts = self.compile(hour), np.zeros((2, 3))
        if self.candidate is None:
            return
        if bool(peers.tensorzero(self.counts[0], self.counts[1])):
            self.promote(self.candidate, hour)
            self.candidate = None
        elif bool(peers.tensorzero(self.counts[1], self.counts[0])):
            self.candidate = None


POLICIES: dict[str, type[Course]] = {
    "no learning": Nothing,
    "monthly, blind": Monthly,
    "on drift, blind": Watched,
    "fixed horizon of 5,000 per arm": FixedHorizon,
    "track and stop, candidate at once": TrackAndStop,
    "ratchet": Ratchet,
    "clairvoyant that must test": Clairvoyant,
}


def end_of(hour: int) -> int:
    """The end of an hour in µs."""
    return (hour + 1) * HOUR


def serve_trial(course: Ratchet, hour: int) -> float:
    """Answer an hour's predictions during a trial or outside one; what was lost."""
    world, trial = course.world, course.trial
    share = trial.serve(hour).mean() if trial is not None and trial.start <= hour else 0.0
    champion = world.accuracy(course.champion, hour)
    challenger = world.accuracy(trial.accuracy["challenger"], hour) if trial is not None else champion
    return float(PER_HOUR * (BEST - (1 - share) * champion - share * challenger))


def split_evenly(world: World, arms: tuple[Floats, Floats], counts: Floats, hour: int) -> float:
    """Half of an hour's predictions to each arm, counted as they are labelled; what was lost."""
    span = np.arange(hour * PER_HOUR, (hour + 1) * PER_HOUR)
    challenger = (span + hour) % 2 == 1
    heard = np.isfinite(world.delay[span])
    for arm, variant in enumerate(arms):
        mine = heard & (challenger == bool(arm))
        right = world.right(variant, hour)[mine].astype(float)
        counts[arm] += (mine.sum(), right.sum(), (right**2).sum())
    return float(PER_HOUR * (BEST - np.mean([world.accuracy(variant, hour) for variant in arms])))
