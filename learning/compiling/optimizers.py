"""The optimizers of DSPy, run so that their silent failures are not taken for results.

GEPA is given no directory: it would resume from a pickle, pay its first evaluation again, and write every answer there
in clear. A run is resumed by the ledger instead, which works for optimizers without checkpoints too.
"""

import threading
from typing import Any

import dspy
from dspy.teleprompt import BootstrapFewShot, MIPROv2
from dspy.teleprompt.gepa import InstructionProposer
from dspy.utils.callback import BaseCallback

from learning.compiling.estimates import CANDIDATES, DEMOS, MINIBATCH, mipro_trials
from learning.compiling.pairing import threads
from learning.compiling.searching import Search
from learning.lms import Lm
from learning.states import State

PATIENCE = 8
"""Iterations in a row without a new instruction after which the reflection LM has no more to say."""
SATURATED = 20
"""Minibatches in a row without a mistake after which there is nothing to learn from; or a whole trainset of them."""
_GOOD = 0.8
"""The least score of an answer that may serve as a demonstration."""


def optimize(search: Search, reflection: Lm) -> None:
    """Runs the job's optimizer inside the student LM's context; what it finds is left in `search`."""
    runners = {"gepa": _gepa, "mipro": _mipro, "bootstrap_few_shot": _bootstrap}
    runners[search.job.optimizer](search, reflection)


def _gepa(search: Search, reflection: Lm) -> None:
    watcher = _Watcher(search)
    optimizer = dspy.GEPA(
        metric=search.scored,
        max_metric_calls=search.job.budget.metric_calls,
        reflection_minibatch_size=min(MINIBATCH, len(search.train)),
        reflection_lm=reflection.model,
        instruction_proposer=InstructionProposer(
            max_chars=search.job.definition.learning.gate.max_prompt_characters // len(search.job.champion.state)
        ),
        add_format_failure_as_feedback=True,
        use_merge=len(search.names) > 1,
        num_threads=threads(search.job),
        warn_on_score_mismatch=False,
        seed=search.job.seed,
        gepa_kwargs={"callbacks": [watcher], "stop_callbacks": [watcher.stop]},
    )
    optimizer.compile(search.student, trainset=search.train, valset=search.val)


class _Watcher:
    """GEPA's callbacks, in which an exception would be swallowed, and its stopper, in which one would not."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._fruitless = 0
        self._perfect = 0
        self._parent: dict[str, str] = {}
        self._saturated = min(SATURATED, -(-len(search.train) // MINIBATCH))

    def stop(self, _state: Any) -> bool:
        """Whether GEPA is to end before its next iteration, which is not begun unless it can be finished."""
        search, used = self._search, self._search.telling.progress.metric_calls
        if search.spending.stopped is not None:
            return True
        if self._fruitless >= PATIENCE:
            search.ended = f"the reflection LM wrote nothing new in {PATIENCE} iterations"
        elif self._perfect >= self._saturated:
            search.ended = f"no mistake was made in {self._perfect} minibatches: there is nothing to learn from"
        elif used + 2 * MINIBATCH + len(search.val) > search.job.budget.metric_calls:
            search.ended = f"the rest of the {search.job.budget.metric_calls} metric calls is too few for a proposal"
        return search.ended is not None

    def on_valset_evaluated(self, event: dict[str, Any]) -> None:
        """A candidate has its score; the first is the champion."""
        if not event["candidate_idx"]:
            self._search.seeded(event["average_score"])
        else:
            self._search.found(_instructions(self._search, event["candidate"]), event["average_score"])
        self._search.keep_back()

    def on_iteration_start(self, event: dict[str, Any]) -> None:
        """Until a proposal comes, this iteration is fruitless."""
        self._search.telling.now(iteration=event["iteration"])
        self._fruitless += 1

    def on_iteration_end(self, event: dict[str, Any]) -> None:
        """How far the run is."""
        progress = self._search.telling.progress
        self._search.keep_back()
        self._search.telling.tell(
            "progress",
            f"iteration {event['iteration']}: {progress.metric_calls} of {progress.metric_calls_budget} metric calls",
        )

    def on_evaluation_skipped(self, event: dict[str, Any]) -> None:
        """A minibatch without a mistake is no failure of the reflection LM."""
        if event["reason"] == "all_scores_perfect":
            self._perfect += 1
            self._fruitless -= 1

    def on_proposal_start(self, event: dict[str, Any]) -> None:
        """There was something to learn from."""
        self._perfect = 0
        self._parent = event["parent_candidate"]

    def on_proposal_end(self, event: dict[str, Any]) -> None:
        """The reflection LM wrote instructions, which may be the old ones."""
        for name, text in event["new_instructions"].items():
            if text.strip() != self._parent.get(name, "").strip():
                self._fruitless = 0
                self._search.telling.tell("proposed", f"new instructions for {name}", predictor=name, text=text)

    def on_merge_attempted(self, _event: dict[str, Any]) -> None:
        """Two candidates were joined: no reflection was asked for."""
        self._fruitless = 0

    def on_candidate_accepted(self, event: dict[str, Any]) -> None:
        """A proposal did better on its minibatch, and was then scored on the valset, unless that was cut short."""
        if self._search.spending.stopped is not None:
            return
        best = self._search.telling.progress.best_score or 0.0
        said = f"accepted with {self._points(event['new_score'])}; best on the valset so far: {best:.1%}"
        self._search.telling.tell("accepted", said)

    def on_candidate_rejected(self, event: dict[str, Any]) -> None:
        """A proposal did no better than its parent on the same minibatch, unless that was cut short."""
        if self._search.spending.stopped is not None:
            return
        said = f"rejected with {self._points(event['new_score'])}, where its parent has {event['old_score']:g}"
        self._search.telling.tell("rejected", said)

    def _points(self, score: float) -> str:
        """The sum of the scores on a minibatch, in words."""
        return f"{score:g} of {min(MINIBATCH, len(self._search.train))} points on the examples it was tried on"


def _instructions(search: Search, texts: dict[str, str]) -> State:
    return {name: {**search.job.champion.state[name], "instructions": text} for name, text in texts.items()}


def _mipro(search: Search, reflection: Lm) -> None:
    """Every candidate is scored on the whole valset, so that no choice is made by a part of it."""
    optimizer = MIPROv2(
        metric=search.graded,
        prompt_model=reflection.model,
        task_model=dspy.settings.lm,
        max_bootstrapped_demos=DEMOS,
        max_labeled_demos=DEMOS,
        auto=None,
        num_candidates=CANDIDATES,
        num_threads=threads(search.job),
        max_errors=10**6,
        seed=search.job.seed,
        metric_threshold=_GOOD,
    )
    with dspy.context(callbacks=[_Evaluations(search)]):
        optimizer.compile(
            search.student,
            trainset=search.train,
            valset=search.val,
            num_trials=mipro_trials(search.job.budget.metric_calls, len(search.val)),
            minibatch=False,
            program_aware_proposer=False,
            seed=search.job.seed,
        )


class _Evaluations(BaseCallback):  # type: ignore[misc]  # DSPy ships no types
    """Takes note of every evaluation on the valset; the first is the champion's."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._under_way: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:  # noqa: ARG002  # DSPy's
        """The program is looked at now: DSPy goes on changing it."""
        with self._lock:
            self._under_way[call_id] = parts_of(inputs["program"])

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        """A score for the program that the evaluation began with."""
        with self._lock:
            parts = self._under_way.pop(call_id)
        if exception is not None or outputs is None:
            return
        search, progress = self._search, self._search.telling.progress
        mean = sum(float(points) for *_, points in outputs.results) / len(search.val)
        search.telling.now(iteration=progress.iteration + 1)
        if search.baseline is None:
            search.seeded(mean)
        else:
            for name, part in parts.items():
                search.telling.tell("proposed", f"instructions for {name}", predictor=name, text=part["instructions"])
            search.found(parts, mean)
            search.telling.tell("progress", f"combination {progress.iteration} scores {mean:.3f} on the valset")
        search.keep_back()


def _bootstrap(search: Search, _reflection: Lm) -> None:
    """Demonstrations from the program's own good answers, filled up with labels; then both scored on the valset."""
    mean = evaluate(search, search.student)
    if not search.seeded(mean):
        return
    search.keep_back()
    optimizer = BootstrapFewShot(
        metric=search.graded,
        metric_threshold=_GOOD,
        max_bootstrapped_demos=DEMOS,
        max_labeled_demos=2 * DEMOS,
        max_errors=10**6,
    )
    tried = search.job.budget.metric_calls - 2 * len(search.val)
    compiled = optimizer.compile(search.student, trainset=search.train[:tried])
    mean = evaluate(search, compiled)
    search.telling.now(iteration=1)
    search.found(parts_of(compiled), mean)
    search.telling.tell("progress", f"with demonstrations it scores {mean:.3f} on the valset")


def evaluate(search: Search, program: dspy.Module) -> float:
    """The mean score on the valset, failures counting 0."""
    evaluator = dspy.Evaluate(
        devset=search.val, metric=search.graded, num_threads=threads(search.job), max_errors=10**6
    )
    return float(sum(points for *_, points in evaluator(program).results)) / len(search.val)


def parts_of(program: dspy.Module) -> State:
    """The predictors of a student as they are, their demos as JSON."""
    return {
        name: {"instructions": part.signature.instructions, "demos": part.dump_state()["demos"]}
        for name, part in program.named_predictors()
    }
