from collections import Counter

import msgspec
import numpy as np
import pytest

from experiments.batch import Logs
from experiments.decision import Conclude
from experiments.metrics import Metric
from experiments.planning import plan
from experiments.ratio import NOISE, TAU, _mixture
from experiments.simulation import Assumption, simulate
from experiments.strata import Floats
from tests.experiments.trials import SPLIT, bernoulli_units, experiment, run

TRAFFIC = 10_000.0
ASSUMED = {"correct": Assumption(0.7)}


def test_simulated_verdicts_are_those_of_the_engine():
    # The same experiment 60 times through folding and decide, and 2,000 times through the plan: equal shares within
    # four standard errors of the smaller sample.
    trial = experiment(min_effect=0.1, max_units=4000)
    found: Counter[str] = Counter()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        units = lambda block: bernoulli_units(rng, 50, block, {"base": 0.7, "new": 0.75})  # noqa: E731, B023 -- drained at once
        _, ruling = run(trial, 80, units, {1: SPLIT})
        assert isinstance(ruling, Conclude)
        found[ruling.verdict] += 1
    ends = simulate(trial, ASSUMED, TRAFFIC, 0.05, seed=1, runs=2000)
    for verdict in ("promote", "futile", "rollback", "inconclusive"):
        expected = float((ends.verdicts == verdict).mean())
        assert abs(found[verdict] / 60 - expected) < 4 * np.sqrt(max(expected * (1 - expected), 0.01) / 60)


def test_a_plan_is_the_same_for_the_same_seed():
    trial = experiment(min_effect=0.1)
    assert plan(trial, ASSUMED, TRAFFIC, seed=7, runs=50) == plan(trial, ASSUMED, TRAFFIC, seed=7, runs=50)
    assert plan(trial, ASSUMED, TRAFFIC, seed=7, runs=50) != plan(trial, ASSUMED, TRAFFIC, seed=8, runs=50)


def test_a_plan_keeps_what_is_promised_of_equal_arms_and_finds_what_it_looks_for():
    found = plan(experiment(min_effect=0.1), ASSUMED, TRAFFIC, seed=2, runs=400)
    worse, equal, better, twice = found.scenarios
    assert all(sum(scenario.chances.values()) == pytest.approx(1) for scenario in found.scenarios)
    assert equal.chances["promote"] < 0.08
    assert worse.chances["promote"] < 0.02
    assert better.chances["promote"] > 0.8
    assert twice.units.mean < better.units.mean
    assert better.units.low <= better.units.mean <= better.units.high
    assert found.detectable_effect == pytest.approx(0.09, abs=0.025)


def test_little_traffic_makes_an_experiment_long_and_in_the_end_inconclusive():
    trial = experiment(min_effect=0.03, max_duration="2d")
    few, many = (plan(trial, ASSUMED, traffic, seed=3, runs=50) for traffic in (100.0, 100_000.0))
    assert few.scenarios[2].chances["inconclusive"] > 0.5
    assert few.scenarios[2].days.high <= 2
    assert many.scenarios[2].days.mean < few.scenarios[2].days.mean
    assert few.detectable_effect is None or few.detectable_effect > (many.detectable_effect or 1)


def test_a_guardrail_that_is_hard_to_clear_makes_a_plan_longer():
    metrics = {
        "correct": Metric(kind="boolean", role="goal", expected="all"),
        "failures": Metric(kind="error", role="guardrail", margin=0.01),
        "latency": Metric(kind="latency", role="guardrail", margin="10%"),
    }
    known = {**ASSUMED, "failures": Assumption(0.1), "latency": Assumption(0.0)}
    guarded = plan(experiment(metrics=metrics, min_effect=0.1), known, TRAFFIC, seed=4, runs=50)
    alone = plan(experiment(min_effect=0.1), ASSUMED, TRAFFIC, seed=4, runs=50)
    assert guarded.scenarios[3].units.mean > 1.5 * alone.scenarios[3].units.mean


def test_a_ramp_and_an_a_a_experiment_are_planned_as_they_run():
    ramped = simulate(experiment(min_effect=0.1, ramp=[0.05, 0.5]), ASSUMED, TRAFFIC, 0.1, seed=5, runs=50)
    even = simulate(experiment(min_effect=0.1), ASSUMED, TRAFFIC, 0.1, seed=5, runs=50)
    assert ramped.units.mean() >= even.units.mean() * 0.8
    trial = experiment(min_effect=0.1)
    twin = type(trial)(**{**{f: getattr(trial, f) for f in trial.__struct_fields__}, "aa": True})
    assert "promote" not in simulate(twin, ASSUMED, TRAFFIC, 0.1, seed=5, runs=50).verdicts


def test_scores_between_their_ends_vary_as_assumed():
    metrics = {"stars": Metric(kind="score", role="goal", range=(1, 5), expected="all")}
    trial = experiment(metrics=metrics, goal="stars", min_effect=0.2)
    steady, wild = (
        simulate(trial, {"stars": Assumption(4.0, deviation)}, TRAFFIC, 0.2, seed=6, runs=100).units.mean()
        for deviation in (0.5, None)
    )
    assert steady < 0.7 * wild


def test_unbounded_metrics_follow_the_score_process():
    logs = Logs(1, 0.0, 0.5, margin=0.1, min_effect=None)
    found = logs.fold(np.random.default_rng(1), np.array([400]), np.array([600]))
    variance, weight = 0.5**2 + NOISE**2, 240.0
    t = (float(logs._sum[0]) + np.log1p(0.1) * weight) / variance
    assert found["better"][0] == pytest.approx(_mixture(t, weight / variance, 1 / (TAU**2 * variance)))
    few = Logs(1, 0.0, 0.5, margin=0.1, min_effect=None).fold(np.random.default_rng(1), np.array([99]), np.array([99]))
    none: Floats = np.zeros(1)
    assert few["better"] == few["harm"] == none


@pytest.mark.parametrize("mean", [0.0, 1.0])
@pytest.mark.parametrize("traffic", [0.01, 1e9])
def test_the_ends_of_every_range_are_planned_too(mean, traffic):
    found = plan(experiment(min_effect=0.3, max_units=1000), {"correct": Assumption(mean)}, traffic, seed=1, runs=20)
    assert found.detectable_effect is None or 0 < found.detectable_effect <= 1
    assert all(np.isfinite([s.units.mean, s.days.high]).all() for s in found.scenarios)


def test_a_cheaper_challenger_that_is_as_good_is_planned_on_its_saving():
    metrics = {
        "correct": Metric(kind="boolean", role="goal", margin=0.05, expected="all"),
        "cost": Metric(kind="cost"),
    }
    trial = msgspec.structs.replace(experiment(metrics=metrics, min_effect=0.2), saving="cost", guardrails=())
    found = plan(trial, {**ASSUMED, "cost": Assumption(0.0, 0.3)}, TRAFFIC, seed=1, runs=100)
    worse, equal, better, _ = found.scenarios
    assert better.chances["promote"] > 0.8
    assert equal.chances["promote"] < 0.15
    assert worse.chances["promote"] == 0
