from collections import Counter
from collections.abc import Callable, Mapping

import msgspec
import numpy as np
import pytest

from experiments import folding
from experiments.batch import Logs
from experiments.decision import Conclude
from experiments.facts import Entrant
from experiments.metrics import Metric
from experiments.planning import CHANCES, plan
from experiments.ratio import NOISE, TAU, _mixture
from experiments.simulation import Assumption, Ends, simulate
from experiments.strata import Floats
from tests.experiments.test_allocation import adaptive, play
from tests.experiments.test_paired_experiments import by_pairs, request
from tests.experiments.trials import BLOCK, SPLIT, bernoulli_units, experiment, exposure, run, unit

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
    assert_alike(found, simulate(trial, ASSUMED, TRAFFIC, 0.05, seed=1, runs=2000))


def test_simulated_verdicts_by_pairs_are_those_of_the_engine():
    trial = by_pairs(min_effect=0.05, max_units=6000)
    found: Counter[str] = Counter()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        _, ruling = run(trial, 120, answered(rng, 25, agreement=0.8, effect=0.04), folding.coins(trial, {1: SPLIT}))
        assert isinstance(ruling, Conclude)
        found[ruling.verdict] += 1
    assumed = {"correct": Assumption(0.7, agreement=0.8), "failures": Assumption(0.0)}
    assert_alike(found, simulate(trial, assumed, TRAFFIC, 0.04, seed=1, runs=2000))


def answered(rng: np.random.Generator, number: int, agreement: float, effect: float) -> Callable[[int], list[Entrant]]:
    """Both answers to `number` requests of a block."""
    apart = 1 - agreement
    law = [(apart - effect) / 2, agreement, (apart + effect) / 2]

    def units(block: int) -> list[Entrant]:
        steps = enumerate(rng.choice([-1, 0, 1], number, p=law))
        pairs = [request(f"{block}-{n}", float(d <= 0), float(d >= 0), at=block * BLOCK + 1) for n, d in steps]
        return [one for pair in pairs for one in pair]

    return units


def test_simulated_verdicts_of_shares_that_follow_the_evidence_are_those_of_the_engine():
    trial = adaptive(min_effect=0.1, max_units=4000)
    found: Counter[str] = Counter()
    for seed in range(60):
        ruling, _ = play(trial, lambda _: {"base": 0.7, "new": 0.75}, seed, blocks=80, size=50)
        assert isinstance(ruling, Conclude)
        found[ruling.verdict] += 1
    assert_alike(found, simulate(trial, ASSUMED, TRAFFIC, 0.05, seed=1, runs=1000))


def test_what_covariates_explain_shortens_a_plan_as_it_shortens_the_experiment():
    trial = experiment(min_effect=0.1, max_units=4000, covariates=("kind",))
    rates = {"a": 0.45, "b": 0.95}
    explained = 0.25**2 / (0.7 * 0.3)
    found: Counter[str] = Counter()
    matured = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        units = lambda block: known_units(rng, 50, block, rates, 0.05)  # noqa: E731, B023 -- drained at once
        evidence, ruling = run(trial, 80, units, {1: SPLIT})
        assert isinstance(ruling, Conclude)
        found[ruling.verdict] += 1
        matured.append(evidence.matured(trial.arms))
    ends = simulate(trial, {"correct": Assumption(0.7, explained=explained)}, TRAFFIC, 0.05, seed=1, runs=2000)
    assert_alike(found, ends)
    assert abs(np.mean(matured) - ends.units.mean()) < 4 * ends.units.std() / np.sqrt(len(matured))
    without = simulate(trial, ASSUMED, TRAFFIC, 0.05, seed=1, runs=2000)
    assert ends.units.mean() < 0.85 * without.units.mean()


def known_units(
    rng: np.random.Generator, number: int, block: int, rates: Mapping[str, float], effect: float
) -> list[Entrant]:
    """Units of which it is known which of the strata they are from."""
    units = []
    for n in range(number):
        kind, arm = str(rng.choice(list(rates))), "new" if rng.random() < 0.5 else "base"
        right = rng.random() < rates[kind] + effect * (arm == "new")
        units.append(unit(f"{block}-{n}", arm, exposure(block * BLOCK + n, float(right), kind=kind)))
    return units


def assert_alike(found: Mapping[str, int], ends: Ends) -> None:
    """Equal shares of verdicts within four standard errors of the smaller sample."""
    runs = sum(found.values())
    for verdict in CHANCES:
        expected = float((ends.verdicts == verdict).mean())
        assert abs(found.get(verdict, 0) / runs - expected) < 4 * np.sqrt(max(expected * (1 - expected), 0.01) / runs)


def test_the_less_two_answers_agree_the_more_pairs_it_takes_and_by_chance_the_most():
    trial, split = by_pairs(min_effect=0.05), experiment(min_effect=0.05)
    often, less, by_chance = (
        simulate(trial, {"correct": known, "failures": Assumption(0.0)}, TRAFFIC, 0.05, seed=2, runs=200).units.mean()
        for known in (Assumption(0.7, agreement=0.9), Assumption(0.7, agreement=0.7), Assumption(0.7))
    )
    assert 1.5 * often < less < by_chance
    assert 3 * often < simulate(split, ASSUMED, TRAFFIC, 0.05, seed=2, runs=200).units.mean()


def test_pairs_take_their_days_from_the_share_of_requests_that_is_drawn():
    few = msgspec.structs.replace(by_pairs(), split={"base": 0.9, "new": 0.1})
    assumed = {"correct": Assumption(0.7, agreement=0.9), "failures": Assumption(0.0)}
    ends = simulate(few, assumed, TRAFFIC, 0.1, seed=2, runs=20)
    np.testing.assert_allclose(ends.days, ends.units / 2 / (0.1 * TRAFFIC))


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
