"""Simulated experiments for tests: units with outcomes, run through the real folding and decision code."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from experiments import folding
from experiments.decision import Conclude, Keep, Ruling, decide, latch
from experiments.experiment import Experiment
from experiments.facts import Entrant, Exposure
from experiments.folding import Evidence
from experiments.metrics import Metric
from experiments.quantities import SECOND
from experiments.settings import ExperimentOptions

BLOCK = 60 * SECOND
WINDOW = 3600 * SECOND
SPLIT = {"base": 0.5, "new": 0.5}


def experiment(*, metrics: Mapping[str, Metric] | None = None, goal: str = "correct", **options: Any) -> Experiment:
    """A running experiment of `base` against `new`, split evenly, started at 0."""
    written = {"randomize": "request", "min_duration": 0, "outcome_window": 3600, "block": 60, "ramp": (), **options}
    declared = dict(metrics or {"correct": Metric(kind="boolean", role="goal", expected="all")})
    return Experiment(
        experiment_id="e1",
        program="p",
        state="running",
        champion="base",
        challengers=("new",),
        goal=goal,
        guardrails=tuple(name for name, metric in declared.items() if metric.role == "guardrail"),
        metrics=declared,
        settings=ExperimentOptions(**written).resolve(),
        promotion="auto",
        split=SPLIT,
        level=0.05,
        deadline=30 * SECOND,
        created_at=0,
        started_at=0,
    )


def exposure(
    at: int,
    value: float | None,
    *,
    failed: bool = False,
    delay: int = SECOND,
    metric: str = "correct",
    **covariates: float | str,
) -> Exposure:
    """A prediction at `at` whose outcome, if any, came `delay` later."""
    heard: tuple[Any, ...] = () if value is None else ((metric, "human", value, at + delay),)
    return Exposure(f"p{at}", at, failed, 1000, 0, 0, heard, covariates)


def unit(name: str, arm: str, *exposures: Exposure, epoch: int = 1) -> Entrant:
    """A unit that entered with its first exposure."""
    return Entrant(name, arm, epoch, exposures[0].created_at, exposures)


def bernoulli_units(
    rng: np.random.Generator, number: int, block: int, rates: Mapping[str, float], share: float = 0.5
) -> list[Entrant]:
    """`number` one-prediction units of one block whose outcomes succeed with the rate of their arm."""
    units = []
    for index in range(number):
        arm = "new" if rng.random() < share else "base"
        at = block * BLOCK + index * (BLOCK // (number + 1))
        units.append(unit(f"u{block}-{index}", arm, exposure(at, float(rng.random() < rates[arm]))))
    return units


def run(
    experiment: Experiment,
    blocks: int,
    units_of: Callable[[int], list[Entrant]],
    splits: Mapping[int, Mapping[str, float]],
) -> tuple[Evidence, Ruling]:
    """Fold block after block, deciding after each, until a verdict or the last block."""
    evidence: Evidence = folding.begin(experiment)
    ruling: Ruling = Keep("nothing yet")
    for number in range(blocks):
        units = units_of(number)
        horizon = (number + 1) * BLOCK + WINDOW
        counts: dict[int, dict[str, int]] = {}
        for one in units:
            arms = counts.setdefault(one.epoch, {})
            arms[one.arm] = arms.get(one.arm, 0) + 1
        evidence = folding.register(evidence, counts, splits, number + 1)
        evidence = latch(folding.fold(evidence, experiment, splits, number, units, horizon), experiment)
        ruling = decide(experiment, evidence, splits[max(splits)], horizon)
        if isinstance(ruling, Conclude):
            break
    return evidence, ruling


def with_metric(experiment: Experiment, **changes: Any) -> Experiment:
    """The experiment with its goal's metric changed."""
    metric = msgspec.structs.replace(experiment.metrics[experiment.goal], **changes)
    return msgspec.structs.replace(experiment, metrics={**experiment.metrics, experiment.goal: metric})
