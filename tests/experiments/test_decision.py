"""Verdicts of simulated experiments: each of them for its own reason, and none without data."""

import re

import msgspec
import numpy as np
import pytest

from experiments import folding
from experiments.decision import Conclude, Fill, Keep, Step, decide, latch, ramp_split
from experiments.facts import Entrant
from experiments.metrics import Metric
from experiments.quantities import SECOND
from tests.experiments.trials import SPLIT, bernoulli_units, experiment, exposure, run, unit

GUARDED = {
    "correct": Metric(kind="boolean", role="goal", expected="all"),
    "failures": Metric(kind="error", role="guardrail", margin=0.02),
}


def test_no_data_yields_no_verdict() -> None:
    trial = experiment()
    ruling = decide(trial, latch(folding.begin(trial), trial), SPLIT, now=10 * SECOND)
    assert isinstance(ruling, Keep)
    assert "the least has 0" in ruling.reason


def test_a_clearly_better_challenger_is_promoted() -> None:
    rng = np.random.default_rng(1)
    evidence, ruling = run(
        experiment(), 100, lambda b: bernoulli_units(rng, 50, b, {"base": 0.6, "new": 0.8}), {1: SPLIT}
    )
    assert isinstance(ruling, Conclude)
    assert (ruling.verdict, ruling.challenger) == ("promote", "new")
    assert evidence.matured(("base", "new")) < 2000


def test_a_worse_challenger_is_rolled_back() -> None:
    rng = np.random.default_rng(2)
    _, ruling = run(experiment(), 100, lambda b: bernoulli_units(rng, 50, b, {"base": 0.8, "new": 0.6}), {1: SPLIT})
    assert isinstance(ruling, Conclude)
    assert ruling.verdict == "rollback"
    assert "'new' is worse on 'correct'" in ruling.reason


def test_equal_arms_end() -> None:
    rng = np.random.default_rng(3)
    trial = experiment(min_effect=0.05)
    _, ruling = run(trial, 600, lambda b: bernoulli_units(rng, 50, b, {"base": 0.7, "new": 0.7}), {1: SPLIT})
    assert isinstance(ruling, Conclude)
    assert ruling.verdict in ("futile", "inconclusive")


def test_an_experiment_that_cannot_tell_ends_inconclusive_at_its_planned_size() -> None:
    rng = np.random.default_rng(4)
    trial = experiment(max_units=1000, min_effect=0.001)
    _, ruling = run(trial, 100, lambda b: bernoulli_units(rng, 50, b, {"base": 0.7, "new": 0.7}), {1: SPLIT})
    assert isinstance(ruling, Conclude)
    assert ruling.verdict == "inconclusive"
    assert "1000 planned units" in ruling.reason
    assert re.search(r"would have taken some [1-9]\d* to [1-9]\d* more", ruling.reason)


def test_the_longest_duration_ends_an_experiment_without_traffic() -> None:
    trial = experiment(max_duration="1d")
    ruling = decide(trial, folding.begin(trial), SPLIT, now=86_400 * SECOND)
    assert isinstance(ruling, Conclude)
    assert ruling.verdict == "inconclusive"


def test_promotion_waits_for_the_shortest_duration() -> None:
    rng = np.random.default_rng(1)
    trial = experiment(min_duration="10d")
    evidence, ruling = run(trial, 60, lambda b: bernoulli_units(rng, 50, b, {"base": 0.6, "new": 0.8}), {1: SPLIT})
    assert isinstance(ruling, Keep)
    assert "shortest duration" in ruling.reason
    later = decide(trial, evidence, SPLIT, now=11 * 86_400 * SECOND)
    assert isinstance(later, Conclude)
    assert later.verdict == "promote"


def test_a_split_that_the_counts_contradict_makes_the_experiment_invalid_before_anything_else() -> None:
    rng = np.random.default_rng(5)
    _, ruling = run(
        experiment(), 200, lambda b: bernoulli_units(rng, 50, b, {"base": 0.6, "new": 0.8}, share=0.2), {1: SPLIT}
    )
    assert isinstance(ruling, Conclude)
    assert ruling.verdict == "invalid"
    assert "Sample-ratio mismatch" in ruling.reason


def test_outcomes_that_go_missing_in_one_arm_make_a_sampled_goal_invalid() -> None:
    rng = np.random.default_rng(6)
    sampled = {"correct": Metric(kind="boolean", role="goal", expected="sampled")}

    def lossy(block: int) -> list[Entrant]:
        kept = []
        for one in bernoulli_units(rng, 50, block, {"base": 0.7, "new": 0.7}):
            (only,) = one.exposures
            gone = one.arm == "new" and rng.random() < 0.6
            kept.append(unit(one.unit_hash, one.arm, exposure(only.created_at, None)) if gone else one)
        return kept

    _, ruling = run(experiment(metrics=sampled, min_effect=0.001), 200, lossy, {1: SPLIT})
    assert isinstance(ruling, Conclude)
    assert ruling.verdict == "invalid"
    assert "arrive unevenly" in ruling.reason


def test_a_guardrail_without_evidence_holds_a_promotion_back() -> None:
    rng = np.random.default_rng(7)

    def failing(block: int) -> list[Entrant]:
        """Better where it answers, but it fails in one of twelve, far beyond the margin of 0.02."""
        units = []
        for one in bernoulli_units(rng, 50, block, {"base": 0.5, "new": 0.95}):
            (only,) = one.exposures
            failed = one.arm == "new" and rng.random() < 1 / 12
            units.append(unit(one.unit_hash, one.arm, exposure(only.created_at, only.outcomes[0][2], failed=failed)))
        return units

    evidence, ruling = run(experiment(metrics=GUARDED), 200, failing, {1: SPLIT})
    goal = next(c for c in evidence.comparisons if c.metric == "correct")
    assert goal.latches.better is not None
    assert isinstance(ruling, Conclude)
    assert ruling.verdict == "rollback"
    assert "'failures' by more than its margin" in ruling.reason


def test_a_ramp_steps_up_once_enough_of_the_challenger_has_matured() -> None:
    rng = np.random.default_rng(8)
    trial = experiment(ramp=(0.1, 0.5), min_units=10_000, max_units=50_000)
    first = ramp_split(trial, 0.1)
    evidence = folding.begin(trial)
    for number in range(80):
        units = bernoulli_units(rng, 50, number, {"base": 0.7, "new": 0.7}, share=0.1)
        evidence = latch(folding.fold(evidence, trial, {1: first}, number, units, (number + 1) * 60 * SECOND), trial)
        ruling = decide(trial, evidence, first, now=0)
        reached = evidence.matured(("new",)) >= trial.settings.ramp_units
        assert isinstance(ruling, Step) == reached
        if isinstance(ruling, Step):
            assert ruling.split == {"base": 0.5, "new": 0.5}
            return
    pytest.fail("the ramp never stepped")


def test_the_planned_number_of_units_sends_new_traffic_to_the_champion() -> None:
    trial = experiment(max_units=200)
    evidence = folding.register(folding.begin(trial), {1: {"base": 100, "new": 100}}, {1: SPLIT}, 1)
    assert isinstance(decide(trial, evidence, SPLIT, now=0), Fill)


def test_an_a_a_experiment_never_promotes() -> None:
    rng = np.random.default_rng(1)
    trial = msgspec.structs.replace(experiment(max_units=1500, min_effect=0.001), aa=True, level=None)
    _, ruling = run(trial, 100, lambda b: bernoulli_units(rng, 50, b, {"base": 0.6, "new": 0.8}), {1: SPLIT})
    assert isinstance(ruling, Conclude)
    assert ruling.verdict == "inconclusive"


def test_a_challenger_that_is_too_slow_too_often_is_rolled_back_exactly() -> None:
    rng = np.random.default_rng(9)
    declared = {
        "correct": Metric(kind="boolean", role="goal", expected="all"),
        "slow": Metric(kind="latency", role="guardrail", limit="2s", margin=0.02),
    }

    def slower(block: int) -> list[Entrant]:
        """As good, but one in eight of the challenger's answers takes three seconds."""
        units = []
        for one in bernoulli_units(rng, 50, block, {"base": 0.7, "new": 0.7}):
            late = one.arm == "new" and rng.random() < 1 / 8
            only = msgspec.structs.replace(one.exposures[0], latency=3 * SECOND if late else SECOND)
            units.append(unit(one.unit_hash, one.arm, only))
        return units

    _, ruling = run(experiment(metrics=declared, min_effect=0.001), 200, slower, {1: SPLIT})
    assert isinstance(ruling, Conclude)
    assert ruling.verdict == "rollback"
    assert "'slow' by more than its margin" in ruling.reason
