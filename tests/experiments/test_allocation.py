"""Shares that follow the evidence: never below the floor, sooner with the winner, and the promise stays."""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from experiments import folding, life
from experiments.allocation import FLOOR, moved, shares
from experiments.decision import Conclude, Drop, Keep, Ruling, Step, decide, latch
from experiments.experiment import Experiment
from experiments.settings import ExperimentOptions
from tests.experiments.test_several import block
from tests.experiments.trials import BLOCK, WINDOW, experiment

Rates = Callable[[int], Mapping[str, float]]


def adaptive(*challengers: str, **options: Any) -> Experiment:
    """An adaptive experiment that opens evenly; `new` is the only challenger unless others are named."""
    trial = experiment(**{"allocation": "adaptive", "ramp_units": 50, **options})
    names = challengers or ("new",)
    split = dict.fromkeys(("base", *names), 1 / (1 + len(names)))
    return msgspec.structs.replace(trial, challengers=names, split=split)


def play(trial: Experiment, rates: Rates, seed: int, *, blocks: int, size: int = 100) -> tuple[Ruling, dict[str, int]]:
    """Fold block after block under the split that is ruled; the last ruling, and the units that each arm got."""
    rng, split, epoch = np.random.default_rng(seed), dict(trial.split), 1
    splits, evidence, given = {1: split}, folding.begin(trial), dict.fromkeys(trial.arms, 0)
    ruling: Ruling = Keep("nothing yet")
    for number in range(blocks):
        units = block(rng, split, rates(number), number, epoch, size)
        counts = {epoch: {arm: sum(one.arm == arm for one in units) for arm in trial.arms}}
        given = {arm: given[arm] + counts[epoch][arm] for arm in trial.arms}
        evidence = folding.register(evidence, counts, splits, number + 1)
        cut = (number + 1) * BLOCK + WINDOW
        evidence = latch(folding.fold(evidence, trial, splits, number, units, cut), trial)
        ruling = decide(trial, evidence, split, cut)
        if isinstance(ruling, Conclude):
            break
        if isinstance(ruling, Drop | Step):
            split, epoch = ruling.split, epoch + 1
            splits[epoch] = split
            if isinstance(ruling, Step):
                evidence = msgspec.structs.replace(evidence, stepped_at=evidence.matured(trial.challengers))
    return ruling, given


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(-50, 50)), min_size=2, max_size=6))
def test_shares_sum_to_one_and_keep_the_floor_and_the_order_of_the_odds(arms: list[tuple[float, float]]) -> None:
    planned = {f"arm{n}": share for n, (share, _) in enumerate(arms)}
    odds = {f"arm{n}": log_odds for n, (_, log_odds) in enumerate(arms)}
    found = shares(planned, odds)
    assert math.fsum(found.values()) == pytest.approx(1)
    assert min(found.values()) >= FLOOR / len(arms) - 1e-12
    weights = {arm: math.log(planned[arm]) + odds[arm] for arm in planned}
    in_order = sorted(planned, key=weights.__getitem__)
    assert all(found[low] <= found[high] + 1e-12 for low, high in pairwise(in_order))


def test_without_evidence_shares_are_the_planned_ones_and_an_arm_off_traffic_stays_off() -> None:
    assert shares({"base": 0.7, "new": 0.3, "gone": 0.0}, {}) == pytest.approx({"base": 0.7, "new": 0.3, "gone": 0.0})
    assert shares({"base": 0.7, "new": 0.3}, {"new": math.log(7)})["new"] == pytest.approx(0.75)


def test_a_split_moves_when_a_share_differs_enough() -> None:
    assert not moved({"base": 0.5, "new": 0.5}, {"base": 0.46, "new": 0.54})
    assert moved({"base": 0.5, "new": 0.5}, {"base": 0.44, "new": 0.56})


def test_the_winners_arm_gets_traffic_sooner_and_wins_all_the_same() -> None:
    rates = {"base": 0.6, "new": 0.68}
    found = []
    for trial in (adaptive(), adaptive(allocation="fixed")):
        runs = [play(trial, lambda _: rates, seed, blocks=150) for seed in range(12)]
        verdicts = [ruling.verdict for ruling, _ in runs if isinstance(ruling, Conclude)]
        shares_of_new = [given["new"] / sum(given.values()) for _, given in runs]
        found.append((verdicts.count("promote"), float(np.mean(shares_of_new))))
    (promoted, share), (promoted_fixed, share_fixed) = found
    assert min(promoted, promoted_fixed) >= 11
    assert share > share_fixed + 0.1


def test_a_losing_arm_gives_its_traffic_back_before_harm_is_proven() -> None:
    rates = {"base": 0.68, "new": 0.6}
    shares_of_new = []
    for seed in range(12):
        _, given = play(adaptive(), lambda _: rates, seed, blocks=150)
        shares_of_new.append(given["new"] / sum(given.values()))
    assert np.mean(shares_of_new) < 0.42


@pytest.mark.parametrize("challengers", [("new",), ("a", "b", "c")], ids=["one", "three"])
def test_equal_arms_are_rarely_told_apart_while_shares_follow_the_evidence_and_the_world_drifts(
    challengers: tuple[str, ...],
) -> None:
    """Above the count that exactly the level of 5 % would pass with probability 99.9 %; pooled means fail here."""
    runs, trial = 80, adaptive(*challengers, min_effect=0.001, max_units=1_000_000)
    wrong = 0
    for seed in range(runs):
        ruling, _ = play(trial, lambda number: dict.fromkeys(trial.arms, 0.5 + number / 100), 1000 + seed, blocks=40)
        wrong += isinstance(ruling, Conclude) and ruling.verdict == "promote"
    assert wrong <= binom.ppf(0.999, runs, 0.05)


def test_adaptive_allocation_takes_the_ramps_place() -> None:
    defined = ExperimentOptions(ramp=(0.1, 0.5))
    assert ExperimentOptions(allocation="adaptive").over(defined).resolve().ramp == ()
    assert ExperimentOptions(allocation="adaptive").resolve().ramp == ()
    with pytest.raises(ValueError, match="takes the ramp's place"):
        ExperimentOptions(allocation="adaptive", ramp=(0.1, 0.5)).resolve()


def test_shares_wait_until_every_arm_has_what_a_verdict_needs() -> None:
    trial = adaptive(min_units=10_000, max_units=1_000_000)
    _, given = play(trial, lambda _: {"base": 0.5, "new": 0.9}, seed=1, blocks=20)
    assert given["new"] == pytest.approx(1000, abs=120)


def test_a_split_set_by_hand_stays() -> None:
    by_hand = life.reshared(adaptive(), {"base": 0.9, "new": 0.1})
    assert by_hand.settings.allocation == "fixed"
