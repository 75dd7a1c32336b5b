"""Plans of experiments, on the wire."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from experiments.experiment import Experiment
from experiments.planning import Plan as DomainPlan
from experiments.planning import Range as DomainRange
from experiments.planning import Scenario as DomainScenario
from experiments.simulation import Assumption
from server.wire.scalars import Share


class Spread(msgspec.Struct, frozen=True):
    """A mean, and what one in ten stays below and one in ten exceeds."""

    mean: float
    low: float
    high: float


class Chances(msgspec.Struct, frozen=True):
    """How often the experiment ends in each verdict; they sum to 1."""

    promote: Share
    rollback: Share
    futile: Share
    inconclusive: Share


class Scenario(msgspec.Struct, frozen=True):
    """The experiment if the challenger is better by `effect`, in the aim's unit (a ratio less 1 if unbounded).

    `days` are those in which the units enter; their outcomes may take the outcome window longer.
    """

    effect: float
    units: Spread
    days: Spread
    chances: Chances


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What an experiment is likely to take. The scenarios: worse by `min_effect`, no better, better by it, by twice.

    `expected_units`, `expected_days` and `chances` are those of a challenger better by exactly `min_effect`;
    `false_promotion` is the chance of promoting one that is no better. `detectable_effect` is the smallest found with
    probability 0.8, null when none is. Chances come from `runs` simulated experiments.
    """

    program: str
    challengers: list[str]
    objective: Literal["better", "as_good_and_cheaper"]
    aim: str
    baseline: Annotated[dict[str, float], Meta(description="What the champion's mean is taken to be, by metric.")]
    agreement: Annotated[Share | None, Meta(description="By pairs: of the requests, on which the goal's scores agree.")]
    explained: Annotated[Share, Meta(description="Of the goal's variance, what covariates are taken to explain.")]
    units_per_day: float
    level: float
    expected_units: Spread
    expected_days: Spread
    chances: Chances
    false_promotion: Share
    detectable_effect: float | None
    scenarios: list[Scenario]
    runs: int


def plan(experiment: Experiment, assumed: dict[str, Assumption], found: DomainPlan) -> Plan:
    """A plan and what it rests on."""
    scenarios = [_scenario(scenario) for scenario in found.scenarios]
    _, equal, better, _ = scenarios
    return Plan(
        program=experiment.program,
        challengers=list(experiment.challengers),
        objective=experiment.settings.objective,
        aim=experiment.aim,
        baseline={name: said.mean for name, said in assumed.items() if experiment.metrics[name].bounded},
        agreement=assumed[experiment.goal].agreement,
        explained=assumed[experiment.goal].explained,
        units_per_day=found.units_per_day,
        level=found.level,
        expected_units=better.units,
        expected_days=better.days,
        chances=better.chances,
        false_promotion=equal.chances.promote,
        detectable_effect=found.detectable_effect,
        scenarios=scenarios,
        runs=found.runs,
    )


def _scenario(found: DomainScenario) -> Scenario:
    return Scenario(found.effect, _spread(found.units), _spread(found.days), Chances(**found.chances))


def _spread(found: DomainRange) -> Spread:
    return Spread(found.mean, found.low, found.high)
