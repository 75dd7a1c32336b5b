"""Before anything is paid: which optimizer, how many calls, and what is too little."""

import pytest

from experiments.errors import Invalid
from learning.compile_runs import Budget, Optimizer
from learning.compiling.estimates import choose, default_metric_calls, expected, min_metric_calls
from learning.definitions import LmSettings, ProgramDefinition
from learning.programs import base_variant
from tests.learning.jobs import PRICE, SIGNATURE, STEPS, sim

ALL: frozenset[Optimizer] = frozenset({"gepa", "mipro", "bootstrap_few_shot"})


@pytest.mark.parametrize(
    ("examples", "feedback", "predictors", "chosen"),
    [
        (29, 1.0, 3, "bootstrap_few_shot"),
        (30, 0.0, 2, "gepa"),
        (30, 0.1, 1, "gepa"),
        (30, 0.09, 1, "mipro"),
        (199, 0.0, 1, "mipro"),
        (200, 0.0, 1, "gepa"),
    ],
)
def test_auto_follows_the_table(examples: int, feedback: float, predictors: int, chosen: str) -> None:
    found, why = choose("auto", examples=examples, share_with_feedback=feedback, predictors=predictors, installed=ALL)
    assert found == chosen
    assert why


def test_auto_takes_what_is_installed_and_says_so() -> None:
    found, why = choose("auto", examples=100, share_with_feedback=0, predictors=1, installed=ALL - {"mipro"})
    assert found == "gepa"
    assert "optuna" in why


def test_a_named_optimizer_is_taken_or_refused_with_the_cure() -> None:
    assert choose("mipro", examples=5, share_with_feedback=1, predictors=3, installed=ALL)[0] == "mipro"
    with pytest.raises(Invalid, match="make setup"):
        choose("mipro", examples=100, share_with_feedback=0, predictors=1, installed=ALL - {"mipro"})


def test_the_least_budget_has_room_for_three_proposals() -> None:
    assert min_metric_calls("gepa", 20) == 20 + 3 * (2 * 5 + 20)
    for optimizer in ALL:
        assert min_metric_calls(optimizer, 50) <= default_metric_calls(optimizer, 50, 1)


def test_a_dry_run_counts_calls_of_every_step_and_prices_both_models() -> None:
    definition = ProgramDefinition(**STEPS, lm=sim())
    champion = base_variant("triage", definition, 0)
    budget = Budget(cost=None, metric_calls=300, time=1)
    estimate = expected(
        definition=definition, champion=champion, val=20, holdout=30, optimizer="gepa", budget=budget, tokens=(200, 20)
    )
    assert estimate.student_calls == 2 * (1 + 300 + 60)
    assert estimate.reflection_calls == 1 + 19
    assert estimate.min_metric_calls == 110
    student = PRICE.of(722 * 200, 722 * 20)
    assert student < (estimate.cost or 0) < 2 * student


def test_without_a_price_there_is_no_cost_and_it_is_not_nought() -> None:
    definition = ProgramDefinition(signature=SIGNATURE, lm=LmSettings(model="sim/triage"))
    estimate = expected(
        definition=definition,
        champion=base_variant("triage", definition, 0),
        val=20,
        holdout=30,
        optimizer="bootstrap_few_shot",
        budget=Budget(cost=None, metric_calls=300, time=1),
        tokens=(200, 20),
    )
    assert (estimate.cost, estimate.reflection_calls) == (None, 0)
