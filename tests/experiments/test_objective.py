"""`as_good_and_cheaper`: promotion for a lower cost, provided that the goal is no worse than its margin."""

from typing import Any

import msgspec
import numpy as np
import pytest
from scipy.stats import binom

from experiments import life
from experiments.decision import Conclude, Ruling
from experiments.errors import Invalid
from experiments.experiment import Experiment
from experiments.facts import Entrant
from experiments.metrics import Metric
from experiments.report import report
from experiments.settings import ExperimentOptions
from tests.experiments.trials import SPLIT, bernoulli_units, experiment, run, unit

METRICS = {
    "correct": Metric(kind="boolean", role="goal", expected="all", margin=0.05),
    "failures": Metric(kind="error", role="guardrail", margin=0.05),
    "cost": Metric(kind="cost", role="guardrail", margin="20%"),
}
CHEAPER = ExperimentOptions(objective="as_good_and_cheaper")


def thrifty(**options: Any) -> Experiment:
    """A running experiment that asks whether `new` is as good and cheaper."""
    trial = experiment(metrics=METRICS, objective="as_good_and_cheaper", **options)
    return msgspec.structs.replace(trial, guardrails=("failures",), saving="cost")


def play(
    trial: Experiment, rates: dict[str, float], costs: dict[str, float], *, seed: int, blocks: int = 200, size: int = 50
) -> Ruling:
    """Simulated traffic with lognormal costs (σ = 0.5) about each arm's geometric mean."""
    rng = np.random.default_rng(seed)

    def units(block: int) -> list[Entrant]:
        priced = []
        for one in bernoulli_units(rng, size, block, rates):
            cost = round(costs[one.arm] * 1e9 * rng.lognormal(0.0, 0.5))
            priced.append(unit(one.unit_hash, one.arm, msgspec.structs.replace(one.exposures[0], cost=cost)))
        return priced

    return run(trial, blocks, units, {1: SPLIT})[1]


def verdict(ruling: Ruling) -> str | None:
    return ruling.verdict if isinstance(ruling, Conclude) else None


def draft(metrics: dict[str, Metric], defaults: ExperimentOptions = CHEAPER, **asked: Any) -> Experiment:
    return life.draft(
        life.NewExperiment(program="p", challengers=("new",), **asked),
        experiment_id="e1",
        champion="base",
        variants=["base", "new"],
        metrics=metrics,
        defaults=defaults,
        promotion="auto",
        deadline=1,
        now=0,
    )


def test_a_cheaper_challenger_that_is_as_good_is_promoted() -> None:
    ruling = play(thrifty(), {"base": 0.8, "new": 0.8}, {"base": 1.0, "new": 0.7}, seed=1)
    assert isinstance(ruling, Conclude)
    assert ruling.verdict == "promote"
    assert "'new' is better on 'cost'" in ruling.reason
    assert "no worse on correct, failures" in ruling.reason


def test_a_cheaper_challenger_that_is_worse_by_more_than_the_margin_is_not() -> None:
    assert verdict(play(thrifty(), {"base": 0.8, "new": 0.6}, {"base": 1.0, "new": 0.5}, seed=2)) == "rollback"


def test_a_better_challenger_that_costs_more_is_harm() -> None:
    ruling = play(thrifty(), {"base": 0.6, "new": 0.9}, {"base": 1.0, "new": 1.5}, seed=3)
    assert isinstance(ruling, Conclude)
    assert ruling.verdict == "rollback"
    assert "'new' is worse on 'cost' (" in ruling.reason


def test_futility_is_about_the_saving() -> None:
    ruling = play(thrifty(min_effect=0.2), {"base": 0.8, "new": 0.9}, {"base": 1.0, "new": 1.0}, seed=4)
    assert isinstance(ruling, Conclude)
    assert ruling.verdict == "futile"
    assert "'cost'" in ruling.reason


def test_the_report_shows_the_saving_as_a_goal_with_its_futility() -> None:
    trial, rng = thrifty(), np.random.default_rng(5)
    evidence, ruling = run(
        trial, 10, lambda block: bernoulli_units(rng, 50, block, {"base": 0.8, "new": 0.8}), {1: SPLIT}
    )
    shown = report(trial, evidence, ruling, counts={}, split=SPLIT, epoch=1, wealth=None, now=0)
    assert [(c.metric, c.role) for c in shown.comparisons] == [
        ("correct", "goal"),
        ("cost", "goal"),
        ("failures", "guardrail"),
    ]
    assert shown.comparisons[0].log_e_futile is None
    assert shown.comparisons[1].log_e_futile is not None


@pytest.mark.parametrize(
    ("rates", "costs"),
    [({"base": 0.8, "new": 0.8}, {"base": 1.0, "new": 1.0}), ({"base": 0.8, "new": 0.75}, {"base": 1.0, "new": 0.5})],
    ids=["no saving", "worse by the margin"],
)
def test_neither_half_of_the_claim_lets_the_other_through(rates: dict[str, float], costs: dict[str, float]) -> None:
    """Judged as in test_error_rates: above the count that exactly the level of 5 % would pass with 99.9 %."""
    runs, trial = 60, thrifty(min_effect=0.001, max_units=100_000)
    promoted = sum(
        verdict(play(trial, rates, costs, seed=100 + seed, blocks=40, size=100)) == "promote" for seed in range(runs)
    )
    assert promoted <= binom.ppf(0.999, runs, 0.05)


def test_the_cost_metric_of_the_program_is_what_has_to_fall_and_is_no_guardrail_beside() -> None:
    made = draft(METRICS)
    assert (made.saving, made.aim, made.guardrails) == ("cost", "cost", ("failures",))
    assert made.compared == ("correct", "cost", "failures")


def test_a_program_without_a_cost_metric_gets_one() -> None:
    made = draft({"correct": METRICS["correct"]})
    assert made.saving == "cost"
    assert made.metrics["cost"].kind == "cost"


@pytest.mark.parametrize(
    ("metrics", "asked", "said"),
    [
        ({"correct": Metric(kind="boolean", role="goal")}, {}, "needs a `margin` on 'correct'"),
        ({**METRICS, "correct": Metric(kind="boolean", role="goal")}, {"goal": "cost"}, "what has to fall already"),
        ({"correct": METRICS["correct"], "cost": Metric(kind="boolean")}, {}, "a metric of kind cost"),
    ],
)
def test_what_cannot_be_as_good_or_cheaper_is_refused_at_creation(
    metrics: dict[str, Metric], asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(Invalid, match=said):
        draft(metrics, **asked)


def test_an_objective_given_with_the_request_stands_over_the_programs() -> None:
    assert draft(METRICS, objective="better").saving is None
    assert draft(METRICS, ExperimentOptions(), objective="as_good_and_cheaper").saving == "cost"
