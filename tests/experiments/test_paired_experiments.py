"""Experiments by pairs, as the engine sees them: who answers, what counts, and what is decided."""

import math
from typing import Any

import numpy as np

from experiments import folding
from experiments.assignment import Routing, draw, route
from experiments.decision import Conclude, decide, latch
from experiments.experiment import Experiment
from experiments.facts import Entrant
from experiments.folding import Evidence
from experiments.metrics import Metric
from experiments.pairs import Pairs
from experiments.settings import ExperimentOptions
from tests.experiments.trials import BLOCK, SPLIT, experiment, exposure, unit

METRICS = {
    "correct": Metric(kind="exact_match", field="answer", role="goal", expected="all"),
    "failures": Metric(kind="error", role="guardrail", margin=0.05),
}


def by_pairs(**options: Any) -> Experiment:
    return experiment(metrics=METRICS, pairs=True, **options)


def request(name: str, base: float | None, new: float | None, *, at: int = 1, failed: bool = False) -> list[Entrant]:
    """Both answers to one request, with what a label made of them."""
    return [unit(name, "base", exposure(at, base)), unit(name, "new", exposure(at, new, failed=failed))]


def folded(trial: Experiment, units: list[Entrant], number: int = 0, evidence: Evidence | None = None) -> Evidence:
    splits = folding.coins(trial, {1: {"base": 0.9, "new": 0.1}})
    counts = {1: {arm: sum(u.arm == arm for u in units) for arm in trial.arms}}
    evidence = folding.register(evidence or folding.begin(trial), counts, splits, number + 1)
    return latch(folding.fold(evidence, trial, splits, number, units, (number + 1) * BLOCK + trial.deadline), trial)


def test_the_champion_serves_everything_and_the_split_draws_the_pairs():
    routing = Routing(
        program="p", epoch=1, champion="base", experiment_id="e", split=SPLIT, pairs=True, reason="", created_at=0
    )
    for name in map(str, range(50)):
        found, drawn = route(routing, name), draw("e", name, SPLIT)
        assert (found.variant, found.propensity) == ("base", 1.0)
        assert (found.experiment_id, found.shadow) == (("e", "new") if drawn == "new" else (None, None))


def test_pairs_imply_a_coin_for_every_request():
    assert ExperimentOptions(pairs=True, randomize="unit").resolve().randomize == "request"
    assert not ExperimentOptions().resolve().pairs


def test_a_request_without_both_answers_or_both_scores_counts_in_neither_arm():
    trial = by_pairs()
    whole = [*request("a", 1.0, 0.0), *request("b", 0.0, 1.0), *request("c", None, None)]
    lost = [request("d", 1.0, 1.0)[0], request("e", 1.0, 1.0)[1], *request("f", 1.0, None)]
    evidence = folded(trial, [*whole, *lost])
    assert {arm: tally.units for arm, tally in evidence.tallies.items()} == {"base": 3, "new": 3}
    assert evidence.comparisons == folded(trial, whole).comparisons


def test_a_failed_shadow_is_the_worst_answer_and_a_failure():
    evidence = folded(by_pairs(), request("a", 1.0, 0.0, failed=True))
    goal, failures = (comparison.process for comparison in evidence.comparisons)
    assert isinstance(goal, Pairs)
    assert isinstance(failures, Pairs)
    assert (goal.estimate(), failures.estimate()) == (-1.0, -1.0)


def test_whole_pairs_are_never_called_out_of_proportion_and_many_lost_ones_are():
    trial = by_pairs()
    whole = [one for name in map(str, range(500)) for one in request(name, 1.0, 1.0)]
    assert folded(trial, whole).balance.log_e() <= 0
    assert folded(trial, whole[::2] + whole[1:500:2]).balance.log_e() > math.log(1000)


def test_a_better_challenger_is_promoted_within_hundreds_of_requests_and_a_worse_one_rolled_back():
    for effect, verdict in ((0.1, "promote"), (-0.2, "rollback")):
        trial, rng = by_pairs(min_units=150), np.random.default_rng(4)
        evidence, ruling = folding.begin(trial), None
        for number in range(40):
            d = rng.choice([-1, 0, 1], 25, p=[(0.2 - effect) / 2, 0.8, (0.2 + effect) / 2])
            units = [
                one
                for place, step in enumerate(d)
                for one in request(f"{number}-{place}", float(step <= 0), float(step >= 0), at=number * BLOCK + 1)
            ]
            evidence = folded(trial, units, number, evidence)
            ruling = decide(trial, evidence, SPLIT, (number + 1) * BLOCK)
            if isinstance(ruling, Conclude):
                break
        assert isinstance(ruling, Conclude)
        assert (ruling.verdict, ruling.challenger) == (verdict, "new")
        assert evidence.tallies["new"].units <= 750
