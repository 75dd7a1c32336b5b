"""Outcomes that come late, or never, folded by the engine's own code from predictions and outcomes."""

import math

import numpy as np

from benchmarks import _peers as peers
from benchmarks._goals import Goal, Row, Size, highest, seeded
from benchmarks._worlds import coin
from experiments import folding
from experiments.batch import Batch
from experiments.decision import latch
from experiments.experiment import Experiment
from experiments.facts import Entrant, Exposure
from experiments.metrics import Metric, Source
from experiments.quantities import SECOND
from experiments.settings import ExperimentOptions
from experiments.strata import Floats

Heard = tuple[tuple[str, Source, float, int], ...]
"""Outcomes as an exposure has them."""
BLOCK, WINDOW, PER_BLOCK, BLOCKS = 600, 3600, 100, 50
SPLITS = {1: {"base": 0.95, "new": 0.05}, 2: {"base": 0.5, "new": 0.5}}
LIMIT = math.log(1 / 0.025)


def experiment(expected: str = "all", randomize: str = "request") -> Experiment:
    """`base` against `new` on one boolean metric; blocks of ten minutes, outcomes within the hour."""
    options = ExperimentOptions(
        outcome_window=WINDOW, block=BLOCK, ramp=(), randomize="unit" if randomize == "unit" else "request"
    )
    return Experiment(
        experiment_id="e",
        program="p",
        state="running",
        champion="base",
        challengers=("new",),
        goal="correct",
        guardrails=(),
        metrics={"correct": Metric(kind="boolean", role="goal", expected="all" if expected == "all" else "sampled")},
        settings=options.resolve(),
        promotion="auto",
        split=SPLITS[2],
        level=0.025,
        deadline=30 * SECOND,
        created_at=0,
        started_at=0,
    )


def slow_successes(rng: np.random.Generator, _: Floats, y: Floats) -> Floats:
    """Failures are reported at once, successes after half an hour or more; in both arms, while the split ramps."""
    return np.where(y == 1, rng.uniform(1200, 3500, y.shape), rng.uniform(1, 60, y.shape))


def slow_candidate_failures(rng: np.random.Generator, w: Floats, y: Floats) -> Floats:
    """The challenger's failures take their time."""
    return np.where((w == 1) & (y == 0), rng.uniform(1200, 3500, y.shape), rng.uniform(1, 60, y.shape))


def lost_candidate_failures(rng: np.random.Generator, w: Floats, y: Floats) -> Floats:
    """A tenth of the challenger's predictions, all of them failures, are never heard of."""
    lost = (w == 1) & (y == 0) & (rng.random(y.shape) < 1 / 3)
    return np.where(lost, np.inf, rng.uniform(1, 60, y.shape))


WORLDS = {
    "successes slow, ramp": (slow_successes, True),
    "challenger's failures slow": (slow_candidate_failures, False),
    "challenger's failures lost": (lost_candidate_failures, False),
}


def late_outcomes(size: Size) -> list[Row]:
    """Equal arms: false alarms on either side at .05, with missing outcomes counted as failures."""
    runs = size.runs(400)
    ours = {name: sum(_alarm(name, run) for run in range(runs)) / runs for name in WORLDS}
    few = size.runs(200)
    theirs = {name: sum(_arrived_only(name, run) for run in range(few)) / few for name in WORLDS}
    return [
        Row(
            Goal("late outcomes: false alarms, two-sided .05", f"<= {highest(0.05, runs)}"),
            max(ours.values()),
            {f"gbstats on what has arrived: {name}": rate for name, rate in theirs.items()},
            ours,
            runs,
        )
    ]


def traffic(name: str, run: int) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Arm, score, delay (s) and time (s) of every prediction, and the challenger's share."""
    delays, ramp = WORLDS[name]
    rng, n = seeded(f"{name} {run}"), BLOCKS * PER_BLOCK
    pi = coin("5-50", 0, n) if ramp else np.full(n, 0.5)
    w = (rng.random(n) < pi).astype(float)
    y = (rng.random(n) < 0.7).astype(float)
    return w, y, delays(rng, w, y), np.arange(n) * BLOCK / PER_BLOCK, pi


def _alarm(name: str, run: int) -> bool:
    w, y, delay, at, pi = traffic(name, run)
    trial = experiment()
    evidence = folding.begin(trial)
    for number in range(BLOCKS):
        units = [
            entrant(index, bool(w[index]), 1 if pi[index] < 0.5 else 2, at[index], y[index], delay[index])
            for index in range(number * PER_BLOCK, (number + 1) * PER_BLOCK)
        ]
        closed = ((number + 1) * BLOCK + WINDOW) * SECOND
        assert folding.complete(trial, units, closed)
        evidence = latch(folding.fold(evidence, trial, SPLITS, number, units, closed), trial)
        (goal,) = evidence.comparisons
        if max(goal.log_e_better or 0.0, goal.log_e_harm or 0.0) >= LIMIT:
            return True
    return False


def entrant(index: int, challenger: bool, epoch: int, at: float, value: float, delay: float) -> Entrant:
    entered = round(at * SECOND)
    heard: Heard = () if delay > WINDOW else (("correct", "human", value, entered + round(delay * SECOND)),)
    exposure = Exposure(f"p{index}", entered, False, 1000, 0, 0, heard)
    return Entrant(f"u{index}", "new" if challenger else "base", epoch, entered, (exposure,))


def _arrived_only(name: str, run: int) -> bool:
    """gbstats over whatever has arrived at the end of each block, pooled over the ramp."""
    w, y, delay, at, _ = traffic(name, run)
    for block in range(2, BLOCKS + 1):
        here = at + delay <= block * BLOCK
        arms = [(here & (w == arm)) for arm in (0, 1)]
        control, challenger = (np.array([[m.sum(), y[m].sum(), y[m].sum()]], dtype=float) for m in arms)
        if min(control[0, 0], challenger[0, 0]) < 2:
            continue
        if peers.gbstats(control, challenger).any() or peers.gbstats(challenger, control).any():
            return True
    return False


def same_as_folding() -> float:
    """How far the vectorised path is from the engine on sticky users with late outcomes: the largest gap in log e."""
    rng, trial = seeded("same"), experiment(randomize="unit")
    evidence, batch, gap = folding.begin(trial), Batch(1, min_effect=trial.settings.min_effect), 0.0
    for number in range(20):
        units, rows = [], []
        for index in range(60):
            epoch = 1 if number < 5 else 2
            challenger = bool(rng.random() < SPLITS[epoch]["new"])
            entered = round((number + index / 100) * BLOCK * SECOND)
            made, value = _visits(rng, entered, f"{number}-{index}")
            units.append(Entrant(f"u{number}-{index}", "new" if challenger else "base", epoch, entered, made))
            rows.append((challenger, value, SPLITS[epoch]["new"]))
        closed = ((number + 1) * BLOCK + 2 * WINDOW) * SECOND
        evidence = folding.fold(evidence, trial, SPLITS, number, units, closed)
        w, y, pi = np.array(rows, dtype=float).T
        found = batch.fold(w[None], y[None], pi)
        process = evidence.comparisons[0].process
        for side in ("better", "harm", "futile"):
            gap = max(gap, abs(float(found[side][0, -1]) - (getattr(process, f"log_e_{side}")() or 0.0)))
    return gap


def _visits(rng: np.random.Generator, entered: int, name: str) -> tuple[tuple[Exposure, ...], float]:
    """A user's predictions, some reported too late, and the mean of the first of them with those as failures."""
    made, counted = [], []
    for visit in range(1 + rng.poisson(6)):
        at, success, late = entered + visit * SECOND, float(rng.random() < 0.7), bool(rng.random() < 0.1)
        heard: Heard = () if late else (("correct", "human", success, at + 30 * SECOND),)
        made.append(Exposure(f"p{name}-{visit}", at, False, 1000, 0, 0, heard))
        counted.append(0.0 if late else success)
    most = folding.PREDICTIONS_PER_UNIT
    return tuple(made), sum(counted[:most]) / len(counted[:most])
