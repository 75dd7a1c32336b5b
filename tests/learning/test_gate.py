"""The gate: what it admits, and every reason to reject, with its numbers."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from learning.compile_runs import Measured, Verdict
from learning.definitions import GateOptions
from learning.gate import judge, prompt_characters
from learning.states import State

BEFORE: State = {"predict": {"instructions": "Sort it.", "demos": []}}
AFTER: State = {"predict": {"instructions": "Sort it with care.", "demos": []}}


def one(baseline: float, candidate: float, **terms: Any) -> Measured:
    told = {
        "prediction_id": "p",
        "baseline_cost": 100,
        "candidate_cost": 120,
        "baseline_latency": 500_000,
        "candidate_latency": 600_000,
    }
    return Measured(baseline=baseline, candidate=candidate, **{**told, **terms})


def holdout(better: int, worse: int, same: int, **terms: Any) -> list[Measured]:
    return [one(0, 1, **terms)] * better + [one(1, 0, **terms)] * worse + [one(1, 1, **terms)] * same


def judged(measured: list[Measured], copied: tuple[str, ...] = (), **options: Any) -> Verdict:
    return judge(measured, champion=BEFORE, candidate=AFTER, options=GateOptions(**options), copied=copied)


def only_fault(measured: list[Measured], **options: Any) -> str:
    verdict = judged(measured, **options)
    assert not verdict.admitted
    (fault,) = verdict.faults
    return fault


def test_a_clear_gain_is_admitted_with_its_numbers():
    verdict = judged(holdout(30, 5, 65))
    assert verdict.admitted
    assert verdict.faults == ()
    assert (verdict.examples, verdict.baseline_score, verdict.candidate_score) == (100, 0.7, 0.95)
    assert verdict.gain == pytest.approx(0.25)
    assert 0.1 < verdict.lower < 0.25
    assert verdict.cost_growth == pytest.approx(0.2)
    assert verdict.latency_growth == pytest.approx(0.2)
    assert verdict.prompt_characters == len("Sort it with care.")


@pytest.mark.parametrize("n", [40, 100])
def test_a_candidate_whose_metric_is_noise_passes_no_more_often_than_stated(n):
    draw = np.random.default_rng(n)
    scores = draw.integers(0, 2, (200, n, 2))
    admitted = sum(judged([one(float(a), float(b)) for a, b in pairs]).admitted for pairs in scores)
    assert admitted <= binom.ppf(0.999, 200, 0.1)


@pytest.mark.parametrize(("n", "least"), [(100, 0.55), (200, 0.75)])
def test_a_gain_of_ten_points_usually_passes(n, least):
    draw = np.random.default_rng(n)
    kinds = draw.choice(3, size=(60, n), p=[0.2, 0.1, 0.7])
    passed = sum(judged(holdout(*np.bincount(row, minlength=3).tolist())).admitted for row in kinds)
    assert passed / 60 >= least


def test_an_unsure_gain_is_rejected_with_its_numbers():
    fault = only_fault(holdout(6, 4, 40))
    assert "+0.040 (0.880 to 0.920 on 50 examples)" in fault
    assert "at 90% confidence it may be as low as -0.0" in fault


def test_the_same_answers_are_no_gain():
    assert "must be above 0" in only_fault(holdout(0, 0, 50))


def test_the_least_gain_must_be_surpassed_for_sure():
    assert judged(holdout(30, 5, 65), min_gain=0.1).admitted
    assert "must be above 0.2" in only_fault(holdout(30, 5, 65), min_gain=0.2)


def test_a_score_below_the_floor_is_rejected():
    assert "0.950 is below the least allowed, 0.97" in only_fault(holdout(30, 5, 65), min_score=0.97)


def test_a_cost_or_a_latency_that_grows_too_much_is_rejected():
    fault = only_fault(holdout(30, 5, 65, candidate_cost=160), max_cost_growth="50%")
    assert fault == "the cost grows by 60%, and at most 50% more is allowed"
    fault = only_fault(holdout(30, 5, 65, candidate_latency=1_250_000))
    assert fault == "the median latency grows by 150% (0.50 s to 1.25 s), and at most 100% more is allowed"


def test_a_delay_that_nobody_notices_is_no_fault():
    assert judged(holdout(30, 5, 65, baseline_latency=100, candidate_latency=900)).admitted


def test_unknown_prices_are_not_judged_and_nothing_stays_nothing():
    unknown = judged(holdout(30, 5, 65, baseline_cost=None, candidate_cost=None))
    assert unknown.admitted
    assert unknown.cost_growth is None
    assert judged(holdout(30, 5, 65, baseline_cost=0, candidate_cost=0)).cost_growth == 0
    assert "the cost was nothing and no longer is" in only_fault(holdout(30, 5, 65, baseline_cost=0))


def test_examples_of_unknown_cost_do_not_hide_the_others():
    measured = [*holdout(30, 5, 35), *holdout(0, 0, 30, baseline_cost=None)]
    assert judged(measured).cost_growth == pytest.approx(0.2)


def test_one_slow_answer_does_not_decide_about_latency():
    assert judged([*holdout(30, 5, 65), one(1, 1, candidate_latency=10**9)]).admitted


def test_failed_answers_count_and_too_many_of_them_are_not_judged():
    some = holdout(0, 0, 5, error="timed out")
    assert judged([*holdout(30, 5, 65), *some]).admitted
    fault = only_fault([*holdout(30, 5, 65), *some * 3])
    assert "15 of 115 examples of the holdout have a failed answer, more than 10%" in fault
    assert "timed out" in fault


def test_training_text_in_the_prompt_is_rejected_without_repeating_it():
    fault = judged(holdout(30, 5, 65), copied=("my card number is 1234", "call me")).faults[0]
    assert "in 2 places (the longest has 22 characters)" in fault
    assert "1234" not in fault


def test_a_prompt_may_be_as_long_as_the_champions_at_least():
    long: State = {"predict": {"instructions": "x" * 300, "demos": []}}
    options = GateOptions(max_prompt_characters=200)
    faults = judge(holdout(30, 5, 65), champion=BEFORE, candidate=long, options=options).faults
    assert faults == ("the prompt has 300 characters, and 200 are allowed (the champion's has 8)",)
    assert judge(holdout(30, 5, 65), champion=long, candidate=long, options=options).admitted


def test_demonstrations_are_part_of_the_prompt():
    shown: State = {"predict": {"instructions": "Sort it.", "demos": [{"ticket": "It crashed", "n": 12}]}}
    assert prompt_characters(shown) == len("Sort it.") + len("It crashed") + 2


def test_an_empty_holdout_admits_nothing():
    assert judged([]).faults == ("nothing was measured: the holdout is empty",)
