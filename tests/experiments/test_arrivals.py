"""The gate of arrival parity on `expected: sampled`: quiet where arms lose alike, loud where one loses more."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from experiments import folding, validity
from experiments.decision import BALANCE, Conclude
from experiments.experiment import Experiment
from experiments.facts import Entrant
from experiments.metrics import Metric
from tests.experiments.trials import BLOCK, experiment, exposure, run, unit

SPLITS = {1: {"base": 0.95, "new": 0.05}, 2: {"base": 0.5, "new": 0.5}}
SIZE = 100


def sampled(**options: Any) -> Experiment:
    goal = Metric(kind="boolean", role="goal", expected="sampled")
    return experiment(metrics={"correct": goal}, min_units=10**6, **options)


def units(rng: np.random.Generator, block: int, arriving: dict[str, float], epoch: int = 2) -> list[Entrant]:
    """Requests of equal arms in one block; the outcome of each arrives with the rate of its arm."""
    made = []
    for index in range(SIZE):
        arm = "new" if rng.random() < SPLITS[epoch]["new"] else "base"
        value = float(rng.random() < 0.7) if rng.random() < arriving[arm] else None
        made.append(unit(f"u{block}-{index}", arm, exposure(block * BLOCK + index, value), epoch=epoch))
    return made


@pytest.mark.parametrize(("challenger", "blocks"), [(0.3, 20), (0.35, 40)])
def test_a_challenger_that_loses_outcomes_is_called_invalid_before_it_can_look_better(
    challenger: float, blocks: int
) -> None:
    """Fails below the count that a power of .95 would fall short of with probability .001."""
    runs, found = 20, 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        arriving = {"base": 0.5, "new": challenger}
        _, ruling = run(sampled(), blocks, lambda block: units(rng, block, arriving), SPLITS)  # noqa: B023 -- called here
        found += isinstance(ruling, Conclude) and ruling.verdict == "invalid"
    assert found >= binom.ppf(0.001, runs, 0.95)


@pytest.mark.parametrize(("share", "ramp"), [(0.05, True), (0.5, True), (0.9, False)])
def test_arms_whose_outcomes_arrive_alike_are_rarely_called_uneven(share: float, ramp: bool) -> None:
    runs, broken = 500, 0
    for seed in range(runs):
        rng, state, most = np.random.default_rng(seed), validity.begin(("base", "new")), 0.0
        for look in range(40):
            split = SPLITS[1 if ramp and look < 15 else 2]
            entered = rng.binomial(250, split["new"])
            came = {"new": int(rng.binomial(entered, share)), "base": int(rng.binomial(250 - entered, share))}
            state = state.fold(came, split)
            most = max(most, state.log_e())
        broken += most >= math.log(1 / BALANCE)
    assert broken <= binom.ppf(0.999, runs, BALANCE)


@pytest.mark.parametrize("arriving", [0.1, 0.6])
def test_the_engine_counts_what_arrived_by_the_split_of_its_time_and_stays_quiet_through_a_ramp(
    arriving: float,
) -> None:
    rng = np.random.default_rng(1)
    both = {"base": arriving, "new": arriving}
    evidence, ruling = run(sampled(), 60, lambda block: units(rng, block, both, 1 if block < 30 else 2), SPLITS)
    assert not isinstance(ruling, Conclude)
    assert sum(evidence.arrival.totals().values()) == pytest.approx(6000 * arriving, rel=0.1)
    assert evidence.arrival.log_e() < math.log(1 / BALANCE)


def test_a_sticky_unit_arrives_once_however_many_of_its_outcomes_do() -> None:
    trial = sampled(randomize="unit")
    often = unit("often", "new", *(exposure(at, 1.0) for at in range(5)), epoch=2)
    once = unit("once", "base", *(exposure(at, 1.0 if at == 4 else None) for at in range(5)), epoch=2)
    never = unit("never", "new", *(exposure(at, None) for at in range(5)), epoch=2)
    evidence = folding.fold(folding.begin(trial), trial, SPLITS, 0, [often, once, never], 2 * 3600 * 10**6)
    assert evidence.arrival.totals() == {"base": 1, "new": 1}
