"""The watch over a promotion: what counts as proven harm, how rarely it is proven wrongly, and when the watch ends."""

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy.stats import binom

from experiments import folding, holdback
from experiments.decision import Keep
from experiments.experiment import Experiment
from experiments.folding import Evidence
from experiments.holdback import End, Revert
from experiments.metrics import Metric
from tests.experiments.trials import BLOCK, WINDOW, bernoulli_units, experiment, exposure, unit

GUARDED = {
    "correct": Metric(kind="boolean", role="goal", expected="all"),
    "failures": Metric(kind="error", role="guardrail", margin=0.02),
}


def concluded(**options: Any) -> Experiment:
    """An experiment whose `new` was promoted at 0, watched from epoch 2 on."""
    trial = msgspec.structs.replace(experiment(**options), state="concluded", verdict="promote", concluded_at=0)
    return holdback.began(trial, "base", "new", 2, 0)


def play(
    trial: Experiment, rates: Mapping[str, float], seed: int, blocks: int, *, share: float | None = None
) -> tuple[Evidence, holdback.Ruling]:
    """Fold block after block, deciding after each, until the holdback is over."""
    watched, rng = holdback.watched(trial), np.random.default_rng(seed)
    evidence: Evidence = folding.begin(watched)
    ruling: holdback.Ruling = Keep("nothing yet")
    new = watched.split["new"] if share is None else share
    for number in range(blocks):
        units = [msgspec.structs.replace(one, epoch=2) for one in bernoulli_units(rng, 100, number, rates, share=new)]
        counts = {2: {arm: sum(one.arm == arm for one in units) for arm in ("base", "new")}}
        evidence = folding.register(evidence, counts, {2: watched.split}, number + 1)
        cut = (number + 1) * BLOCK + WINDOW
        evidence = holdback.latch(folding.fold(evidence, watched, {2: watched.split}, number, units, cut), watched)
        ruling = holdback.decide(trial, evidence)
        if not isinstance(ruling, Keep):
            break
    return evidence, ruling


def test_a_new_champion_that_is_worse_is_taken_back() -> None:
    evidence, ruling = play(concluded(holdback=0.1), {"base": 0.8, "new": 0.6}, seed=1, blocks=100)
    assert isinstance(ruling, Revert)
    assert holdback.log_e_harm(evidence) >= math.log(20)


def test_a_new_champion_that_breaks_a_guardrail_is_taken_back_though_it_is_better_on_the_goal() -> None:
    trial = concluded(metrics=GUARDED, holdback=0.2)
    watched, rng = holdback.watched(trial), np.random.default_rng(3)
    evidence = folding.begin(watched)
    for number in range(60):
        units = []
        for one in bernoulli_units(rng, 100, number, {"base": 0.5, "new": 0.9}, share=0.8):
            (only,) = one.exposures
            failed = one.arm == "new" and rng.random() < 0.1
            seen = exposure(only.created_at, only.outcomes[0][2], failed=failed)
            units.append(unit(one.unit_hash, one.arm, seen, epoch=2))
        cut = (number + 1) * BLOCK + WINDOW
        evidence = holdback.latch(folding.fold(evidence, watched, {2: watched.split}, number, units, cut), watched)
    ruling = holdback.decide(trial, evidence)
    assert isinstance(ruling, Revert)
    assert "'failures' by more than its margin" in ruling.reason


def test_the_evidence_of_harm_is_the_average_over_the_metrics() -> None:
    watched = holdback.watched(concluded(metrics=GUARDED))
    evidence = folding.begin(watched)
    assert holdback.log_e_harm(evidence) == pytest.approx(0.0)
    one = msgspec.structs.replace(evidence.comparisons[0], latches=folding.Latches(harm=math.log(39)))
    two = msgspec.structs.replace(evidence, comparisons=(one, *evidence.comparisons[1:]))
    assert math.exp(holdback.log_e_harm(two)) == pytest.approx((39 + 1) / 2)


def test_what_is_proven_stays_proven() -> None:
    trial = concluded(holdback=0.5)
    evidence, ruling = play(trial, {"base": 0.9, "new": 0.5}, seed=4, blocks=100)
    assert isinstance(ruling, Revert)
    watched = holdback.watched(trial)
    proven = holdback.log_e_harm(evidence)
    for number in range(evidence.blocks, evidence.blocks + 30):
        units = bernoulli_units(np.random.default_rng(number), 100, number, {"base": 0.5, "new": 0.9})
        folded = folding.fold(evidence, watched, {1: watched.split}, number, units, (number + 1) * BLOCK + WINDOW)
        evidence = holdback.latch(folded, watched)
    assert holdback.log_e_harm(evidence) == proven


def test_a_holdback_passes_once_the_former_champions_planned_units_have_matured() -> None:
    evidence, ruling = play(concluded(holdback=0.1, holdback_units=300), {"base": 0.7, "new": 0.75}, 5, blocks=100)
    assert isinstance(ruling, End)
    assert ruling.passed
    assert 300 <= evidence.matured(("base",)) < 330


def test_units_out_of_proportion_end_the_watch_and_prove_nothing() -> None:
    _, ruling = play(concluded(holdback=0.1), {"base": 0.7, "new": 0.7}, seed=6, blocks=100, share=0.6)
    assert isinstance(ruling, End)
    assert not ruling.passed


def test_a_promotion_that_harms_nothing_is_rarely_taken_back() -> None:
    """Judged as in test_error_rates: above the count that exactly 5 % would pass with probability 99.9 %."""
    runs, trial = 150, concluded(metrics=GUARDED, holdback=0.1, holdback_units=600)
    taken_back = sum(
        isinstance(play(trial, {"base": 0.7, "new": 0.7}, seed=1000 + run, blocks=80)[1], Revert) for run in range(runs)
    )
    assert taken_back <= binom.ppf(0.999, runs, holdback.LEVEL)
