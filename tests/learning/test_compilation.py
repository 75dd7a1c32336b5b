"""Whole compile runs, by real optimizers on the simulated world: what they find, what they spend, how they end."""

import importlib.util
import itertools
import json
import statistics
from pathlib import Path

import msgspec
import pytest
from dspy.lm15 import AuthError, BillingError, Request, ServerError

from experiments.errors import Invalid
from experiments.quantities import SECOND
from learning.compile_runs import Example, Result
from learning.definitions import LmSettings
from learning.engines.triage import LABELS, Draw, rulebook
from learning.states import State
from tests.learning.jobs import (
    PRICE,
    SIGNATURE,
    STEPS,
    Faulty,
    calls,
    compiled,
    events,
    examples,
    job,
    proposing,
    sim,
)
from tests.scripted_lm import ScriptedLm, chat


def gain(result: Result) -> float:
    return statistics.mean(each.candidate - each.baseline for each in result.holdout)


def lead(result: Result) -> float:
    """How far the candidate is ahead on the valset."""
    assert result.candidate_val is not None
    assert result.baseline_val is not None
    return result.candidate_val - result.baseline_val


def state(result: Result) -> State:
    assert result.outcome == "candidate", result.reason
    assert result.state is not None
    return result.state


def test_gepa_improves_triage_on_examples_it_never_saw(tmp_path: Path) -> None:
    result = compiled(job(), tmp_path)
    assert result.outcome == "candidate"
    assert lead(result) > 0.2
    assert gain(result) > 0.2
    assert [each.prediction_id for each in result.holdout] == [f"p{at}" for at in range(2000, 2030)]
    assert state(result)["predict"]["instructions"].startswith("Sort the ticket.\n")


def test_the_result_adds_up_with_the_ledger_and_the_events(tmp_path: Path) -> None:
    result = compiled(job(), tmp_path)
    paid = calls(tmp_path)
    assert result.spent == sum(call["cost"] for call in paid)
    assert result.student_calls == len(calls(tmp_path, "student"))
    assert result.student_calls == 1 + result.metric_calls + 2 * len(result.holdout)
    told = events(tmp_path)
    assert [told[0].kind, told[1].kind, told[2].kind, told[-1].kind] == ["started", "preflight", "baseline", "ended"]
    assert {"proposed", "accepted", "progress", "holdout"} <= {event.kind for event in told}
    assert told[-1].progress.best_score == result.candidate_val
    assert told[-1].spent == result.spent
    sealed = result.holdout[0]
    assert 0 < (sealed.baseline_cost or 0) < (sealed.candidate_cost or 0)
    assert sealed.baseline_latency > 0


def test_the_same_seed_finds_the_same_and_another_seed_goes_another_way(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "again", "other")]
    for folder in folders:
        folder.mkdir()
    one, again, other = (compiled(job(seed=seed), folder) for seed, folder in zip((0, 0, 5), folders, strict=True))
    assert one.state == again.state
    assert one.state != other.state
    assert [each.candidate for each in one.holdout] == [each.candidate for each in again.holdout]


def test_a_run_that_is_taken_up_again_pays_nothing_again_and_tells_nothing_again(tmp_path: Path) -> None:
    first = compiled(job(), tmp_path)
    told = len(events(tmp_path))
    again = compiled(job(), tmp_path, Faulty(lambda *_: AuthError("nobody may call now")).open)
    assert again.state == first.state
    assert again.spent == first.spent
    assert [each.candidate_latency for each in again.holdout] == [each.candidate_latency for each in first.holdout]
    assert [event.kind for event in events(tmp_path)[told:]] == ["started"]


@pytest.mark.parametrize("cents", [2, 3])
def test_a_budget_in_dollars_is_never_exceeded_however_many_threads_spend_it(tmp_path: Path, cents: int) -> None:
    limit = cents * 10**10
    lm = sim(latency=0.001)
    result = compiled(job({"lm": lm}, {"cost": limit, "metric_calls": 2000}), tmp_path)
    assert result.outcome == "candidate"
    assert "does not cover another call" in result.reason
    assert 0.5 * limit < result.spent <= limit
    assert len(result.holdout) == 30, "what the sealed holdout costs is kept back"


def test_what_was_paid_before_counts_against_the_budget(tmp_path: Path) -> None:
    result = compiled(job(budget={"cost": 10**10}, spent=10**10 - 10**6), tmp_path)
    assert result.outcome == "budget"
    assert result.spent <= 10**10


def test_a_budget_that_cannot_last_to_a_result_ends_after_one_call(tmp_path: Path) -> None:
    result = compiled(job(budget={"cost": 10**9}), tmp_path)
    assert result.outcome == "budget"
    assert "$0.001 is too little" in result.reason or "are $0.0" in result.reason
    assert result.student_calls == 1


def test_a_budget_in_dollars_without_a_price_is_refused_naming_the_field(tmp_path: Path) -> None:
    unpriced = msgspec.structs.replace(sim(), price=None)
    result = compiled(job({"lm": unpriced}, {"cost": 10**12}), tmp_path)
    assert (result.outcome, result.student_calls) == ("budget", 0)
    assert "lm.price and learning.reflection_lm.price" in result.reason
    reflection = compiled(job(budget={"cost": 10**12}, reflection_lm=unpriced), tmp_path)
    assert reflection.reason.endswith("write learning.reflection_lm.price")


@pytest.mark.parametrize("metric_calls", [110, 171])
@pytest.mark.parametrize("optimizer", ["gepa", "mipro", "bootstrap_few_shot"])
def test_no_optimizer_uses_more_metric_calls_than_it_may(tmp_path: Path, optimizer: str, metric_calls: int) -> None:
    result = compiled(job(budget={"metric_calls": metric_calls}, optimizer=optimizer), tmp_path)
    assert result.metric_calls <= metric_calls
    assert result.outcome in ("candidate", "no-candidate", "budget")


def test_an_optimizer_that_needs_more_runs_than_it_should_is_stopped_at_the_budget(tmp_path: Path) -> None:
    """MIPRO looks for good answers of a program that has few until it has tried every example, four times over."""
    hopeless = {"lm": sim(knows=0.0, noise=0.9)}
    result = compiled(job(hopeless, {"metric_calls": 112}, optimizer="mipro"), tmp_path)
    assert (result.outcome, result.metric_calls) == ("budget", 112)
    assert "all 112 metric calls are used up" in result.reason


def test_too_few_metric_calls_are_refused_with_the_number_needed(tmp_path: Path) -> None:
    result = compiled(job(budget={"metric_calls": 109}), tmp_path)
    assert (result.outcome, result.student_calls) == ("budget", 0)
    assert "needs at least 110 metric calls" in result.reason


def test_a_run_whose_time_is_up_keeps_the_best_it_found(tmp_path: Path) -> None:
    """The test's clock moves a millisecond per look."""
    whole = compiled(job(), tmp_path)
    (tmp_path / "short").mkdir()
    result = compiled(job(budget={"time": SECOND * 6 // 10}), tmp_path / "short")
    assert result.outcome == "candidate"
    assert "minutes are used up" in result.reason
    assert result.metric_calls < whole.metric_calls


def test_a_run_without_time_learns_nothing(tmp_path: Path) -> None:
    result = compiled(job(budget={"time": 20_000}), tmp_path)
    assert result.outcome == "budget"
    assert result.state is None


def test_a_student_that_refuses_voids_the_run_at_the_first_call(tmp_path: Path) -> None:
    faulty = Faulty(lambda *_: AuthError("the key is revoked"))
    result = compiled(job(), tmp_path, faulty.open)
    assert result.outcome == "void"
    assert "the student LM refuses: the key is revoked" in result.reason
    assert faulty.asked == 1


def test_a_student_that_is_down_voids_the_run_before_anything_is_learnt(tmp_path: Path) -> None:
    result = compiled(job({"lm": sim(error_rate=1.0)}, reflection_lm=sim()), tmp_path)
    assert result.outcome == "void"
    assert "the student LM does not answer" in result.reason
    assert result.student_calls <= 3 * 4


def test_a_reflection_lm_that_is_down_voids_the_run_before_the_student_budget_is_spent(tmp_path: Path) -> None:
    result = compiled(job(reflection_lm=sim(error_rate=1.0)), tmp_path)
    assert result.outcome == "void"
    assert "the reflection LM does not answer" in result.reason
    assert result.student_calls == 1


def test_a_student_that_fails_here_and_there_while_the_champion_is_scored_voids_the_run(tmp_path: Path) -> None:
    result = compiled(job({"lm": sim(error_rate=0.2)}, reflection_lm=sim(), seed=1), tmp_path)
    assert result.outcome == "void"
    assert "failed while the champion was scored" in result.reason
    assert result.metric_calls == 20


def test_an_outage_in_the_middle_voids_the_run_instead_of_improving_on_failures(tmp_path: Path) -> None:
    faulty = Faulty(lambda asked, _: ServerError("down", retry_after=0.0) if asked > 120 else None)
    result = compiled(job(), tmp_path, faulty.open)
    assert result.outcome == "void"
    assert "the student LM failed in 8 calls in a row" in result.reason
    assert result.state is None
    assert faulty.asked < 120 + 4 * 16


def test_money_running_out_at_the_provider_voids_the_run(tmp_path: Path) -> None:
    faulty = Faulty(lambda asked, _: BillingError("insufficient quota") if asked > 100 else None)
    result = compiled(job(), tmp_path, faulty.open)
    assert result.outcome == "void"
    assert "insufficient quota" in result.reason
    assert faulty.asked < 100 + 10, "only calls under way at once"


def test_a_reflection_lm_that_dies_in_the_middle_voids_the_run(tmp_path: Path) -> None:
    def fault(asked: int, request: object) -> ServerError | None:
        return ServerError("down", retry_after=0.0) if asked > 60 and "new_instruction" in str(request) else None

    result = compiled(job(budget={"metric_calls": 1000}), tmp_path, Faulty(fault).open)
    assert result.outcome == "void"
    assert "the reflection LM failed in 3 calls in a row" in result.reason
    assert result.metric_calls < 150


def test_single_failures_are_tried_again_and_do_no_harm(tmp_path: Path) -> None:
    faulty = Faulty(lambda asked, _: ServerError("hiccup", retry_after=0.0) if asked % 7 == 0 else None)
    result = compiled(job(), tmp_path, faulty.open)
    assert result.outcome == "candidate"
    assert gain(result) > 0.2


@pytest.mark.parametrize("optimizer", ["gepa", "mipro", "bootstrap_few_shot"])
def test_a_champion_that_makes_no_mistake_is_left_alone(tmp_path: Path, optimizer: str) -> None:
    perfect = {"instructions": rulebook(shifted=True), "lm": sim(noise=0.0)}
    result = compiled(job(perfect, optimizer=optimizer), tmp_path)
    assert result.outcome == "no-candidate"
    assert "no mistake on the valset" in result.reason
    assert result.metric_calls < 20 + 40
    assert result.holdout == ()


def test_what_could_not_be_kept_is_said_and_the_search_goes_on(tmp_path: Path) -> None:
    """Every other proposal comes with a character that no database holds."""
    spoilt = itertools.cycle(["\0", ""])
    result = compiled(job(), tmp_path, proposing(lambda text: text.replace("\0", "") + next(spoilt)))
    assert any("cannot be kept" in event.said for event in events(tmp_path) if event.kind == "rejected")
    assert "\0" not in state(result)["predict"]["instructions"]


def test_a_trainset_without_a_mistake_ends_the_run_early(tmp_path: Path) -> None:
    perfect = job({"instructions": rulebook(shifted=True), "lm": sim(noise=0.0)}, {"metric_calls": 2000})
    odd = msgspec.structs.replace(perfect.dataset.val[0], label={"category": "bug"})
    dataset = msgspec.structs.replace(perfect.dataset, val=(odd, *perfect.dataset.val[1:]))
    result = compiled(msgspec.structs.replace(perfect, dataset=dataset), tmp_path)
    assert result.outcome == "no-candidate"
    assert "no mistake was made in 8 minibatches" in result.reason
    assert result.metric_calls == 20 + 40


def test_a_reflection_lm_that_never_writes_anything_new_ends_the_run_early(tmp_path: Path) -> None:
    given = job({"instructions": "bug"}, {"metric_calls": 2000})
    result = compiled(given, tmp_path, proposing(lambda _: "bug"))
    assert result.outcome == "no-candidate"
    assert "wrote nothing new in 8 iterations" in result.reason
    assert result.metric_calls < 150


def test_what_noise_made_look_better_is_seen_for_what_it_is_on_the_sealed_holdout(tmp_path: Path) -> None:
    def random_labels(given: tuple[Example, ...]) -> tuple[Example, ...]:
        drawn = [Draw(7, each.prediction_id).pick(LABELS) for each in given]
        return tuple(
            msgspec.structs.replace(each, label={"category": label}) for each, label in zip(given, drawn, strict=True)
        )

    honest = job()
    parts = {"train": examples(40, 0), "val": examples(20, 1000), "holdout": examples(200, 2000)}
    dataset = msgspec.structs.replace(honest.dataset, **{name: random_labels(part) for name, part in parts.items()})
    result = compiled(msgspec.structs.replace(honest, dataset=dataset), tmp_path)
    if result.outcome == "candidate":
        assert gain(result) < min(0.1, lead(result))


def test_only_the_named_step_of_a_program_is_changed(tmp_path: Path) -> None:
    given = job(STEPS, component="sort")
    result = compiled(given, tmp_path)
    assert result.outcome == "candidate"
    assert state(result)["read"] == given.champion.state["read"]
    assert state(result)["sort"] != given.champion.state["sort"]
    assert {event.predictor for event in events(tmp_path) if event.kind == "proposed"} == {"sort"}
    assert result.student_calls == 2 * (1 + result.metric_calls + 2 * len(result.holdout))


def test_without_a_name_every_step_may_be_changed(tmp_path: Path) -> None:
    compiled(job(STEPS, budget={"metric_calls": 300}), tmp_path)
    assert {event.predictor for event in events(tmp_path) if event.kind == "proposed"} == {"read", "sort"}


@pytest.mark.parametrize("optimizer", ["mipro", "bootstrap_few_shot"])
def test_demonstrations_are_found_and_kept_as_json(tmp_path: Path, optimizer: str) -> None:
    result = compiled(job(optimizer=optimizer), tmp_path)
    assert result.outcome == "candidate"
    demos = state(result)["predict"]["demos"]
    assert demos
    assert all(demo.keys() == {"ticket", "category"} for demo in demos)
    assert result.copied == (), "demonstrations are training text by design"
    assert lead(result) > 0


@pytest.mark.parametrize("optimizer", ["mipro", "bootstrap_few_shot"])
def test_the_other_optimizers_change_only_the_named_step_too(tmp_path: Path, optimizer: str) -> None:
    given = job(STEPS, component="sort", optimizer=optimizer)
    result = compiled(given, tmp_path)
    if result.state is not None:
        assert state(result)["read"] == given.champion.state["read"]


@pytest.mark.parametrize("optimizer", ["mipro", "bootstrap_few_shot"])
def test_optimizers_without_checkpoints_are_taken_up_again_for_nothing(tmp_path: Path, optimizer: str) -> None:
    first = compiled(job(optimizer=optimizer), tmp_path)
    again = compiled(job(optimizer=optimizer), tmp_path, Faulty(lambda *_: AuthError("nobody may call now")).open)
    assert (again.state, again.spent) == (first.state, first.spent)


def test_feedback_on_a_step_tells_it_apart_from_the_whole(tmp_path: Path) -> None:
    asked: list[str] = []

    def listening(_: int, request: Request) -> None:
        if "new_instruction" in str(request.system):
            asked.append(request.messages[-1].text or "")

    compiled(job(STEPS, component="read"), tmp_path, Faulty(listening).open)
    assert "This is the step 'read' of a program of several steps. It answered {'gist': " in asked[-1]
    assert "the program as a whole then answered {'category': " in asked[-1]


def test_an_answer_that_can_be_read_in_part_is_shown_to_the_reflection_lm_as_unreadable(tmp_path: Path) -> None:
    """DSPy alone divides a list by a list here, and loses the example."""

    def script(_model: str, prompt: str) -> str:
        if "new_instruction" in prompt:
            return json.dumps({"new_instruction": "Better."})
        return '{"category": "bug"}' if "JSON object" in prompt else chat(category="bug")

    lm = ScriptedLm(script)
    two = {"signature": f"{SIGNATURE}, tone: str", "lm": LmSettings(model="fake/student", price=PRICE)}
    result = compiled(job(two, reflection_lm=LmSettings(model="fake/reflection", price=PRICE)), tmp_path, lm.open)
    assert result.outcome == "no-candidate"
    assert result.baseline_val == 0
    reflections = [prompt for model, prompt in lm.asked if model == "fake/reflection"]
    assert "Your output failed to parse" in reflections[-1]
    assert result.student_calls == 2 * (1 + result.metric_calls), "the adapter's second try is a call like any other"


def test_training_text_in_a_proposal_is_reported(tmp_path: Path) -> None:
    quoted = job().dataset.train[0].input["ticket"]

    result = compiled(job(), tmp_path, proposing(lambda text: f"{text}\nFor example: {quoted}"))
    assert quoted.rstrip(".!?") in result.copied[0]


def test_a_job_for_another_program_is_refused_naming_the_place(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="'sorts' is no predictor of this program; did you mean 'sort'"):
        compiled(job(STEPS, component="sorts"), tmp_path)
    foreign = msgspec.structs.replace(job().dataset.train[0], input={"text": "hello"})
    dataset = msgspec.structs.replace(job().dataset, train=(foreign,))
    with pytest.raises(Invalid, match="/input/ticket"):
        compiled(job(dataset=dataset), tmp_path)


def test_mipro_without_optuna_is_refused_before_anything_is_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "optuna" else found(name, *rest)
    )
    with pytest.raises(Invalid, match="mipro needs optuna"):
        compiled(job(optimizer="mipro"), tmp_path)
    assert calls(tmp_path) == []
