"""Numbers far from the usual: large offsets, empty and constant arms, very many units, evidence beyond any table.

Where a number can be had it is the right one; where not, there is none, and never one that only looks plausible.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest

from experiments import betting, covariates, folding, holdback, pairs, ratio, validity
from experiments.betting import Betting
from experiments.closure import closed_means
from experiments.decision import Conclude, decide, latch
from experiments.folding import Evidence, Latches
from experiments.metrics import Metric
from experiments.pairs import Pairs
from experiments.ratio import Ratio
from experiments.report import report
from experiments.strata import absorb, contrast, group
from tests.experiments.trials import SPLIT, experiment

BILLION = 1e9


def numbers(state: Betting | Pairs | Ratio) -> list[float | None]:
    """All that a state says."""
    said = (state.log_e_better(), state.log_e_harm(), state.log_e_futile(), state.estimate(), state.estimate_debiased())
    return [*said, *state.interval(0.05)]


def test_scores_on_a_range_near_a_billion_are_weighed_as_those_near_nought() -> None:
    rng = np.random.default_rng(1)
    w, y = rng.random(4000) < 0.5, np.clip(rng.normal(0, 1, 4000), -5, 5).round(3)
    near, far = (Metric(kind="score", role="goal", range=(at - 5, at + 5)) for at in (0.0, BILLION))
    found = []
    for metric, at in ((near, 0.0), (far, BILLION)):
        scores = np.array([metric.score(value + at) for value in y])
        found.append(betting.begin(min_effect=0.05).fold(w, scores, np.full(4000, 0.5)))
    variances = [contrast(state.strata).scatter / contrast(state.strata).weight for state in found]  # type: ignore[union-attr]  # both arms are there
    assert variances[0] == pytest.approx(y.var() / 100, rel=0.01)
    assert variances[1] == pytest.approx(variances[0], rel=1e-6)
    assert numbers(found[1]) == pytest.approx(numbers(found[0]), abs=1e-5)


def test_values_near_a_billion_keep_their_variance_on_the_log_scale() -> None:
    rng = np.random.default_rng(2)
    w, y = rng.random(4000) < 0.5, rng.lognormal(0, 1, 4000)
    near, far = (ratio.begin(margin=0.1).fold(w, at * y, np.full(4000, 0.5)) for at in (1.0, BILLION))
    assert [*filter(None, numbers(far))] == pytest.approx([*filter(None, numbers(near))], rel=1e-9)
    found = contrast(far.strata)
    assert found is not None
    assert found.scatter / found.weight == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("blocks", [1, 40])
def test_a_spread_of_one_around_a_billion_is_told_as_no_difference(blocks: int) -> None:
    """On the log scale that spread is a billionth; what is left of it in rounding must not become evidence."""
    rng, state = np.random.default_rng(3), ratio.begin(margin=0.1)
    for _ in range(blocks):
        w = rng.random(1000) < 0.5
        state = state.fold(w, BILLION + rng.normal(0, 1, 1000), np.full(1000, 0.5))
    found = contrast(state.strata)
    assert found is not None
    assert found.difference == pytest.approx(0.0, abs=1e-9)
    assert found.scatter / found.weight < 1e-9
    lower, upper = state.interval(0.05)
    assert lower is not None
    assert upper is not None
    assert lower < 0 < upper
    assert (state.log_e_better() or 0.0) > 0 > (state.log_e_harm() or 0.0), "no worse by a tenth, and no harm"


def test_a_covariate_near_a_billion_foretells_what_it_does_near_nought() -> None:
    rng = np.random.default_rng(4)
    size = rng.normal(0, 1, 2000)
    y = np.clip(0.5 + 0.2 * size, 0, 1)
    shifts = []
    for at in (0.0, BILLION):
        known: list[dict[str, float | str]] = [{"size": at + one} for one in size]
        shifts.append(covariates.begin(["size"]).absorb(known[:1000], y[:1000]).shift(known[1000:]))
    assert np.corrcoef(shifts[0], y[1000:])[0, 1] > 0.9
    np.testing.assert_allclose(shifts[1], shifts[0], atol=1e-5)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_arms_that_always_succeed_or_fail_are_equal_and_nothing_else(score: float) -> None:
    w = np.arange(4000) % 2
    goal, guardrail = betting.begin(min_effect=0.05), betting.begin(margin=0.05)
    paired = pairs.begin(min_effect=0.05)
    for _ in range(5):
        goal, guardrail = (state.fold(w, np.full(4000, score), np.full(4000, 0.5)) for state in (goal, guardrail))
        paired = paired.fold(np.full(2000, score), np.full(2000, score))
    for state in (goal, paired):
        assert state.estimate() == 0.0
        assert max(state.log_e_better(), state.log_e_harm()) < math.log(20) < (state.log_e_futile() or 0.0)
        assert state.interval(0.05)[0] < 0 < state.interval(0.05)[1]
    assert guardrail.log_e_better() > math.log(20) > guardrail.log_e_harm()


@pytest.mark.parametrize("arm", [0, 1])
def test_an_arm_without_units_yields_no_estimate_and_no_evidence_about_the_other(arm: int) -> None:
    w, half = np.full(500, arm), np.full(500, 0.5)
    exact = betting.begin(margin=0.05).fold(w, np.ones(500), half)
    scored = ratio.begin(margin=0.1).fold(w, np.full(500, 2.0), half)
    assert exact.estimate() is exact.estimate_debiased() is None
    assert set(numbers(scored)) == {None}
    assert contrast(absorb((), group(w, np.ones(500), half))) is None
    lost = validity.begin(("base", "new")).fold({("base", "new")[arm]: 500}, SPLIT)
    assert lost.log_e() > math.log(1000), "but that nobody came is noticed"


def half_a_million_outcomes() -> tuple[Any, ...]:
    """500,000 units: .70 against .71, to the unit."""
    good = np.repeat([1.0, 0.0, 1.0, 0.0], [175_000, 75_000, 177_500, 72_500])
    return np.repeat([0.0, 1.0], 250_000), good, np.full(500_000, 0.5)


def half_a_million_latencies() -> tuple[Any, ...]:
    """500,000 units of every speed; the challenger is a hundredth slower."""
    speeds = np.exp(np.repeat(np.linspace(-2, 2, 250), 1000))
    return np.repeat([0.0, 1.0], 250_000), np.concatenate([speeds, 1.01 * speeds]), np.full(500_000, 0.5)


@pytest.mark.parametrize(
    ("begun", "block"),
    [(betting.begin(min_effect=0.005), half_a_million_outcomes), (ratio.begin(), half_a_million_latencies)],
)
def test_ten_million_units_give_bounds_that_are_sound_and_still_shrink(
    begun: Any, block: Callable[[], tuple[Any, ...]]
) -> None:
    state, widths, units = begun, [], block()
    for number in range(1, 21):
        state = state.fold(*units)
        lower, upper = state.interval(0.05)
        assert lower < 0.01 < upper
        assert all(value is None or math.isfinite(value) for value in numbers(state))
        if number in (1, 2, 4, 8, 16, 20):
            widths.append(upper - lower)
    assert sum(arm.n for arm in state.means()) == 10_000_000
    assert state.estimate() == pytest.approx(0.01, abs=1e-9)
    assert all(later < 0.85 * earlier for earlier, later in pairwise(widths[:-1]))
    assert widths[-1] < widths[-2] < 0.01
    assert msgspec.json.decode(msgspec.json.encode(state), type=type(state)) == state
    assert max(state.log_e_better(), state.log_e_harm()) > math.log(1000), "a hundredth is much, by then"


def test_millions_of_pairs_give_bounds_that_are_sound() -> None:
    state = pairs.begin(min_effect=0.005)
    base, new = np.repeat([0.0, 1.0], [51, 49]), np.repeat([0.0, 1.0], [50, 50])
    for _ in range(2):
        state = state.fold(np.tile(base, 10_000), np.tile(new, 10_000))
    assert all(value is not None and math.isfinite(value) for value in numbers(state))
    assert state.estimate() == pytest.approx(0.01, abs=1e-9)
    assert state.interval(0.05) == (0.005, 0.015), "the nearest nulls of the grid"


def test_ten_million_units_in_proportion_are_no_alarm_and_out_of_it_by_a_hundredth_are_one() -> None:
    sound = validity.begin(("base", "new")).fold({"base": 5_000_000, "new": 5_000_000}, SPLIT)
    broken = validity.begin(("base", "new")).fold({"base": 5_050_000, "new": 4_950_000}, SPLIT)
    assert sound.log_e() < 0
    assert broken.log_e() > math.log(1000)


def extreme(blocks: int = 10) -> Betting:
    """Every unit of the challenger succeeds, every one of the champion fails."""
    state = betting.begin(min_effect=0.05)
    w = np.arange(100_000) % 2
    for _ in range(blocks):
        state = state.fold(w, w, np.full(100_000, 0.5))
    return state


def test_evidence_beyond_any_table_stays_a_number_on_both_sides() -> None:
    state = extreme()
    assert state.log_e_better() > 1e5
    assert state.log_e_harm() < -1e2
    assert all(value is not None and math.isfinite(value) for value in numbers(state))
    lower, upper = state.interval(0.05)
    assert 0.9 < lower <= 1.0 == upper
    means = closed_means([1e5, -1e5, 3.0])
    assert means == pytest.approx([1e5 - math.log(3), -1e5, 3.0 - math.log(2)], rel=1e-15)


def sure(log_e: float) -> Evidence:
    """An experiment's evidence that reached so much."""
    trial = experiment(min_units=1)
    (goal,) = folding.begin(trial).comparisons
    reached = msgspec.structs.replace(goal, process=extreme(1), latches=Latches(better=log_e), peak=log_e)
    tallies = {arm: folding.Tally(500, {"correct": (500, 250.0)}) for arm in trial.arms}
    return msgspec.structs.replace(folding.begin(trial), comparisons=(reached,), tallies=tallies)


def test_a_p_value_too_small_for_a_number_is_told_as_nought_and_the_e_value_in_words() -> None:
    trial, evidence = experiment(min_units=1), sure(1e5)
    assert latch(evidence, trial) == evidence
    ruling = decide(trial, evidence, SPLIT, 10**9)
    assert isinstance(ruling, Conclude)
    assert (ruling.verdict, "(e-value 1e43429, needed 20)" in ruling.reason) == ("promote", True)
    shown = report(trial, evidence, ruling, counts={}, split=SPLIT, epoch=1, wealth=None, now=0)
    (goal,) = shown.comparisons
    assert (goal.log_e_better, goal.p_value) == (1e5, 0.0)
    assert msgspec.json.decode(msgspec.json.encode(shown), type=type(shown)) == shown
    assert report(trial, sure(20.0), ruling, counts={}, split=SPLIT, epoch=1, wealth=None, now=0).comparisons[
        0
    ].p_value == pytest.approx(math.exp(-20))


def test_harm_beyond_any_table_is_one_number_over_the_metrics_of_a_holdback() -> None:
    evidence = sure(1e5)
    (goal,) = evidence.comparisons
    harmful = msgspec.structs.replace(goal, latches=Latches(harm=1e5))
    both = msgspec.structs.replace(
        evidence, comparisons=(harmful, msgspec.structs.replace(goal, latches=Latches(harm=-1e5)))
    )
    assert holdback.log_e_harm(both) == pytest.approx(1e5 - math.log(2))


NOT_FINITE = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize(
    "fold",
    [
        lambda bad: betting.begin().fold([1], [bad], [0.5]),
        lambda bad: betting.begin().fold([bad], [1], [0.5]),
        lambda bad: betting.begin().fold([1], [1], [bad]),
        lambda bad: betting.begin(margin=bad),
        lambda bad: pairs.begin().fold([bad], [1.0]),
        lambda bad: pairs.begin().fold([1.0], [bad]),
        lambda bad: pairs.begin(min_effect=bad),
        lambda bad: ratio.begin().fold([1], [bad], [0.5]),
        lambda bad: ratio.begin().fold([bad], [1.0], [0.5]),
        lambda bad: ratio.begin().fold([1], [1.0], [bad]),
        lambda bad: ratio.begin(margin=bad),
        lambda bad: group([1], [bad], [0.5]),
        lambda bad: group([1], [1.0], [0.5], [bad]),
        lambda bad: Metric(kind="score", range=(0, 1)).check_value(bad),
        lambda bad: Metric(kind="positive").check_value(bad),
        lambda bad: Metric(kind="score", range=(0, bad)),
    ],
)
def test_what_is_no_finite_number_is_refused_wherever_it_could_enter(
    fold: Callable[[float], object], bad: float
) -> None:
    with pytest.raises(ValueError, match=r".+"):
        fold(bad)


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_a_covariate_that_is_no_finite_number_counts_as_missing(bad: float) -> None:
    assert covariates.covariate(bad) is None
