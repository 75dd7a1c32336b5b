"""From facts to evidence: what counts, when a block may close, and that order and looking change nothing."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import folding
from experiments.betting import Betting
from experiments.decision import latch
from experiments.folding import Evidence
from experiments.metrics import Metric
from experiments.quantities import SECOND
from tests.experiments.trials import BLOCK, SPLIT, WINDOW, bernoulli_units, experiment, exposure, unit, with_metric

STICKY = experiment(randomize="unit")
BY_REQUEST = experiment()


def test_a_request_is_complete_with_its_outcome_or_at_the_end_of_its_window() -> None:
    heard = unit("a", "new", exposure(0, 1.0, delay=5))
    silent = unit("b", "base", exposure(0, None))
    assert folding.complete(BY_REQUEST, [heard], horizon=6)
    assert not folding.complete(BY_REQUEST, [heard, silent], horizon=WINDOW - 1)
    assert folding.complete(BY_REQUEST, [heard, silent], horizon=WINDOW)


def test_an_outcome_that_is_not_known_to_be_stored_yet_does_not_complete_a_block() -> None:
    heard = unit("a", "new", exposure(0, 1.0, delay=5))
    assert not folding.complete(BY_REQUEST, [heard], horizon=5)


def test_a_sticky_unit_waits_for_its_window_unless_it_has_its_five_predictions() -> None:
    four = unit("a", "new", *(exposure(at, 1.0) for at in range(4)))
    five = unit("a", "new", *(exposure(at, 1.0) for at in range(5)))
    assert not folding.complete(STICKY, [four], horizon=WINDOW - 1)
    assert folding.complete(STICKY, [five], horizon=2 * SECOND)


def test_a_unit_counts_with_its_first_five_predictions_in_order_of_assignment_whatever_came_first() -> None:
    slow_successes = [exposure(at, 1.0, delay=50) for at in range(5)]
    fast_failures = [exposure(at, 0.0, delay=1) for at in range(5, 10)]
    one = unit("a", "new", *slow_successes, *fast_failures)
    assert folding.unit_value(STICKY, "correct", one, cut=WINDOW) == 1.0


def test_an_outcome_after_the_window_does_not_count() -> None:
    late = unit("a", "new", exposure(0, 1.0, delay=WINDOW))
    assert folding.unit_value(BY_REQUEST, "correct", late, cut=2 * WINDOW) == 0.0
    assert folding.unit_value(with_metric(BY_REQUEST, expected="sampled"), "correct", late, cut=2 * WINDOW) is None


@pytest.mark.parametrize(
    ("expected", "value", "failed", "counted"),
    [
        ("all", 1.0, True, 0.0),
        ("all", None, True, 0.0),
        ("all", None, False, 0.0),
        ("sampled", 1.0, True, 0.0),
        ("sampled", None, True, None),
        ("sampled", None, False, None),
        ("volunteered", 1.0, False, 1.0),
    ],
)
def test_failures_and_silence_count_as_the_metric_says(
    expected: str, value: float | None, failed: bool, counted: float | None
) -> None:
    trial = with_metric(BY_REQUEST, expected=expected)
    assert folding.unit_value(trial, "correct", unit("a", "new", exposure(0, value, failed=failed)), WINDOW) == counted


def test_a_failure_is_the_worst_value_also_where_less_is_better() -> None:
    effort = {"effort": Metric(kind="score", range=(1, 7), direction="lower", role="goal", expected="all")}
    trial = experiment(metrics=effort, goal="effort", min_effect=0.5)
    failed = unit("a", "new", exposure(0, 2.0, failed=True, metric="effort"))
    assert folding.unit_value(trial, "effort", failed, WINDOW) == 7.0


def test_the_most_trusted_source_is_the_one_that_counts() -> None:
    both = msgspec.structs.replace(
        exposure(0, None), outcomes=(("correct", "program", 0.0, 5), ("correct", "human", 1.0, 9))
    )
    assert folding.unit_value(BY_REQUEST, "correct", unit("a", "new", both), WINDOW) == 1.0
    assert folding.unit_value(BY_REQUEST, "correct", unit("a", "new", both), cut=7) == 0.0


def test_what_is_observed_needs_no_report() -> None:
    implicit = {
        "correct": Metric(kind="boolean", role="goal"),
        "latency": Metric(kind="latency", role="guardrail", margin="10%"),
        "tokens": Metric(kind="tokens", role="guardrail", margin="10%"),
        "failures": Metric(kind="error", role="guardrail"),
    }
    trial = experiment(metrics=implicit, randomize="unit")
    failed, unmetered = exposure(0, None, failed=True), exposure(1, None)
    one = unit("a", "new", msgspec.structs.replace(failed, tokens=90), msgspec.structs.replace(unmetered, tokens=None))
    assert folding.unit_value(trial, "failures", one, WINDOW) == 0.5
    assert folding.unit_value(trial, "latency", one, WINDOW) == 1000.0
    assert folding.unit_value(trial, "tokens", one, WINDOW) == 90.0
    assert folding.unit_value(trial, "correct", one, WINDOW) is None


@given(st.randoms(use_true_random=False))
def test_the_order_of_units_in_a_block_changes_nothing_bit_for_bit(shuffler: "np.random.Generator") -> None:
    units = bernoulli_units(np.random.default_rng(0), 40, 0, {"base": 0.5, "new": 0.7})
    folded = folding.fold(folding.begin(BY_REQUEST), BY_REQUEST, {1: SPLIT}, 0, units, WINDOW)
    shuffled = list(units)
    shuffler.shuffle(shuffled)
    assert folding.fold(folding.begin(BY_REQUEST), BY_REQUEST, {1: SPLIT}, 0, shuffled, WINDOW) == folded


def test_a_closed_unit_has_the_covariates_of_its_first_exposure_and_order_changes_nothing() -> None:
    trial = experiment(randomize="unit", covariates=("kind",))
    one = unit("a", "new", exposure(0, 1.0, kind="x"), exposure(1, 0.0, kind="y"))
    other = unit("b", "base", exposure(2, 0.0))
    folded = folding.fold(folding.begin(trial), trial, {1: SPLIT}, 0, [one, other], WINDOW)
    assert folding.fold(folding.begin(trial), trial, {1: SPLIT}, 0, [other, one], WINDOW) == folded
    process = folded.comparisons[0].process
    assert isinstance(process, Betting)
    assert process.fit is not None
    assert process.fit.texts == (("x",),)


def test_evidence_survives_being_stored_bit_for_bit_at_any_moment() -> None:
    rng = np.random.default_rng(9)
    blocks = [bernoulli_units(rng, 30, number, {"base": 0.6, "new": 0.7}) for number in range(10)]
    through = stored = folding.begin(BY_REQUEST)
    for number, units in enumerate(blocks):
        cut = (number + 1) * BLOCK + WINDOW
        through = latch(folding.fold(through, BY_REQUEST, {1: SPLIT}, number, units, cut), BY_REQUEST)
        reread = msgspec.json.decode(msgspec.json.encode(stored), type=Evidence)
        stored = latch(folding.fold(reread, BY_REQUEST, {1: SPLIT}, number, units, cut), BY_REQUEST)
    assert stored == through
    assert msgspec.json.encode(stored) == msgspec.json.encode(through)


def test_blocks_fold_in_order_only() -> None:
    units = bernoulli_units(np.random.default_rng(0), 4, 0, {"base": 0.5, "new": 0.5})
    evidence = folding.fold(folding.begin(BY_REQUEST), BY_REQUEST, {1: SPLIT}, 3, units, WINDOW)
    with pytest.raises(ValueError, match="folded already"):
        folding.fold(evidence, BY_REQUEST, {1: SPLIT}, 3, units, WINDOW)


def test_a_comparison_of_two_arms_ignores_the_third() -> None:
    trial = msgspec.structs.replace(BY_REQUEST, challengers=("new", "other"))
    split = {"base": 0.5, "new": 0.25, "other": 0.25}
    pair = bernoulli_units(np.random.default_rng(0), 30, 0, {"base": 0.5, "new": 0.7})
    other = [unit(f"o{n}", "other", exposure(n, 1.0)) for n in range(10)]
    alone = folding.fold(folding.begin(trial), trial, {1: split}, 0, pair, WINDOW)
    among = folding.fold(folding.begin(trial), trial, {1: split}, 0, pair + other, WINDOW)
    assert alone.comparisons[0] == among.comparisons[0]
    assert alone.comparisons[1] != among.comparisons[1]


def test_a_service_level_counts_the_predictions_beyond_it() -> None:
    declared = {
        "correct": Metric(kind="boolean", role="goal"),
        "slow": Metric(kind="latency", role="guardrail", limit="1ms", margin=0.01),
        "dear": Metric(kind="cost", role="guardrail", limit=0.01, margin=0.01),
    }
    trial = experiment(metrics=declared, randomize="unit")
    quick, slow = exposure(0, None), msgspec.structs.replace(exposure(1, None), latency=1001, cost=None)
    both = unit("a", "new", quick, slow)
    assert folding.unit_value(trial, "slow", both, WINDOW) == 0.5
    assert folding.unit_value(trial, "dear", both, WINDOW) == 0.0
