"""An experiment in a simulated world, by the engine's own assignment, folding and decision code, hour by hour."""

import msgspec
import numpy as np

from benchmarks._late import Heard
from benchmarks._loop_worlds import HOUR, PER_HOUR, SPACING, World
from experiments import folding
from experiments.assignment import draw
from experiments.decision import Conclude, Fill, Ruling, Step, decide, latch, ramp_split
from experiments.experiment import Experiment
from experiments.facts import Entrant, Exposure
from experiments.metrics import Metric
from experiments.settings import ExperimentOptions
from experiments.strata import Floats

WINDOW_HOURS = 6
METRIC = {"correct": Metric(kind="boolean", role="goal", expected="sampled")}
OPTIONS = ExperimentOptions(
    randomize="unit", outcome_window=f"{WINDOW_HOURS}h", block="1h", min_duration="24h", max_duration="21d"
)


class Trial:
    """One experiment from its start at the beginning of `hour`, at the `level` that its series grants it."""

    def __init__(self, world: World, champion: Floats, challenger: Floats, hour: int, level: float) -> None:
        settings = OPTIONS.resolve()
        self.world, self.start, self.level = world, hour, level
        self.accuracy = {"champion": champion, "challenger": challenger}
        self.experiment = Experiment(
            experiment_id=f"{world.kind}-{world.number}-{hour}",
            program="p",
            state="running",
            champion="champion",
            challengers=("challenger",),
            goal="correct",
            guardrails=(),
            metrics=METRIC,
            settings=settings,
            promotion="auto",
            split={},
            level=level,
            deadline=HOUR // 3600,
            created_at=hour * HOUR,
            started_at=hour * HOUR,
        )
        self.splits = {1: ramp_split(self.experiment, settings.ramp[0])}
        self.full = False
        self.evidence = folding.begin(self.experiment)
        self.met: dict[int, tuple[str, int, int, list[int]]] = {}
        self.entered: list[list[int]] = []

    @property
    def split(self) -> dict[str, float]:
        """The split in force."""
        return self.splits[max(self.splits)]

    def serve(self, hour: int) -> np.ndarray:
        """Whether the challenger answers each prediction of the hour."""
        new: list[int] = []
        arms = np.zeros(PER_HOUR, dtype=bool)
        for place in range(PER_HOUR):
            index = hour * PER_HOUR + place
            user = int(self.world.users[index])
            arm = "champion"
            if not self.full:
                arm = draw(self.experiment.experiment_id, str(user), self.split)
                if user not in self.met:
                    self.met[user] = (arm, max(self.splits), hour, [])
                    new.append(user)
                if self.met[user][0] == arm and hour < self.met[user][2] + WINDOW_HOURS:
                    self.met[user][3].append(index)
            arms[place] = arm == "challenger"
        self.entered.append(new)
        return arms

    def tick(self, hour: int) -> Ruling:
        """Register what entered up to the end of the hour, fold what is complete, and decide."""
        horizon = (hour + 1) * HOUR
        self._register(hour - self.start)
        while self.evidence.blocks < self.evidence.registered:
            block = self.evidence.blocks
            units = [self._entrant(user) for user in self.entered[block]]
            if not folding.complete(self.experiment, units, horizon):
                break
            folded = folding.fold(self.evidence, self.experiment, self.splits, block, units, horizon)
            self.evidence = latch(folded, self.experiment)
        ruling = decide(self.experiment, self.evidence, self.split, horizon)
        if isinstance(ruling, Step):
            self.splits = {**self.splits, max(self.splits) + 1: ruling.split}
            matured = self.evidence.matured(self.experiment.challengers)
            self.evidence = msgspec.structs.replace(self.evidence, stepped_at=matured)
        elif isinstance(ruling, Fill):
            self.full = True
        return ruling

    def known(self, arm: str) -> tuple[int, float]:
        """Number and sum of the scores by which an arm is known when the experiment has ended."""
        found = self.evidence.tallies[arm].sums.get("correct", (0, 0.0))
        return int(found[0]), float(found[1])

    def _register(self, block: int) -> None:
        counts: dict[int, dict[str, int]] = {}
        for user in self.entered[block]:
            arm, epoch, _, _ = self.met[user]
            counts.setdefault(epoch, {}).setdefault(arm, 0)
            counts[epoch][arm] += 1
        self.evidence = folding.register(self.evidence, counts, self.splits, block + 1)

    def _entrant(self, user: int) -> Entrant:
        arm, epoch, _, indices = self.met[user]
        made = tuple(self._exposure(index, arm) for index in indices[: folding.PREDICTIONS_PER_UNIT])
        return Entrant(str(user), arm, epoch, made[0].created_at, made)

    def _exposure(self, index: int, arm: str) -> Exposure:
        hour, place = divmod(index, PER_HOUR)
        at, delay = index * SPACING, self.world.delay[index]
        value = float(self.world.right(self.accuracy[arm], hour)[place])
        heard: Heard = () if not np.isfinite(delay) else (("correct", "human", value, at + int(delay)),)
        return Exposure(str(index), at, False, 1000, 0, 0, heard)


def over(ruling: Ruling) -> bool:
    """Whether the experiment has ended."""
    return isinstance(ruling, Conclude)


def promoted(ruling: Ruling) -> bool:
    """Whether it ended with the challenger as champion."""
    return isinstance(ruling, Conclude) and ruling.verdict == "promote"
