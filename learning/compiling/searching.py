"""A program as optimizers take it, the score they go by, and the best they have found so far.

Whatever optimizer runs, it sees a `Student`, calls `Search.scored` or `Search.graded` as its metric, and what comes of
it is what `Search` holds: never an evaluation that was cut short.
"""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import dspy
import msgspec
from dspy.utils.exceptions import AdapterParseError

from experiments.errors import Invalid, LmError
from learning.compile_runs import Example, Job
from learning.compiling.telling import Telling
from learning.engines.spending import Spending
from learning.feedback.scoring import score
from learning.programs import Blueprint, Program, check_input, check_label
from learning.running import shown
from learning.states import State, read_state

SEED_TOLERATED = 0.05
"""Share of the student's calls that may fail while the champion is scored: what everything later is compared with."""
_HEADROOM = 1.5
"""Answers on the holdout are set aside at this multiple of what answers cost and took so far."""


class Loop:
    """One event loop on a thread of its own, for programs that only have an `aforward`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="programs", daemon=True)
        self._thread.start()

    def __deepcopy__(self, _memo: Any) -> "Loop":
        return self

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Its result; the calling thread's context holds inside."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        """To be called when nothing runs any more."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Runs:
    """Counts the runs of the program, which are the metric calls of the budget, and allows no more than that."""

    def __init__(self, limit: int, spending: Spending, telling: Telling) -> None:
        self._limit = limit
        self._spending = spending
        self._telling = telling
        self._lock = threading.Lock()

    def __deepcopy__(self, _memo: Any) -> "Runs":
        return self

    def begin(self) -> None:
        """One more run. Raises: dspy.LMConfigurationError when there is none left."""
        with self._lock:
            used = self._telling.progress.metric_calls
            if used >= self._limit:
                self._spending.stop("budget", f"all {self._limit} metric calls are used up")
            if (stop := self._spending.stopped) is not None:
                raise dspy.LMConfigurationError(f"the run has stopped: {stop.reason}")
            self._telling.now(metric_calls=used + 1)


class Student(dspy.Module):  # type: ignore[misc]  # DSPy ships no types
    """A program of which optimizers see the predictors in `names` and no others: those alone can change."""

    def __init__(self, program: dspy.Module, names: tuple[str, ...], runs: Runs) -> None:
        super().__init__()
        self.program = program
        self.names = names
        self.runs = runs
        self.loop = None if hasattr(type(program), "forward") else Loop()

    def named_parameters(self) -> list[tuple[str, Any]]:
        """Under the names that the program itself has for them."""
        return [(name, part) for name, part in self.program.named_parameters() if name in self.names]

    def forward(self, **inputs: Any) -> Any:
        """The program's answer."""
        self.runs.begin()
        return self.answer(**inputs)

    def answer(self, **inputs: Any) -> Any:
        """The program's answer, not counted."""
        try:
            return self.program(**inputs) if self.loop is None else self.loop.run(self.program.acall(**inputs))
        except AdapterParseError as error:
            # DSPy stumbles over what was read of a partly readable answer and loses the example; without it, the answer
            # counts as unreadable and is shown to the reflection LM as such.
            error.parsed_result = None
            raise
        except SystemExit as error:
            raise RuntimeError(f"the program called for an exit: {error}") from error


class Case(dspy.Example):  # type: ignore[misc]  # DSPy ships no types
    """One example as DSPy takes it: inputs and known outputs as Python objects. `source` stays out of every prompt."""

    def about(self, source: Example) -> "Case":
        """Itself, knowing where it comes from."""
        self._source = source
        return self

    @property
    def source(self) -> Example:
        """The example as learning knows it."""
        return self._source

    @classmethod
    def of(cls, example: Example, plan: Blueprint) -> "Case":
        """The example for a program that takes and gives `plan`. Raises: Invalid when it is another program's."""
        fields = plan.input_fields | plan.output_fields
        given = check_input(plan, example.input)
        written = given | check_label(plan, example.label)
        case: Case = cls(base={name: fields[name].read(value) for name, value in written.items()}).with_inputs(*given)
        return case.about(example)


class Found(msgspec.Struct, frozen=True):
    """A state of the program and its mean score on the valset."""

    state: State
    score: float


class Search:
    """What one run looks for, by which score, and the best it has seen."""

    def __init__(self, job: Job, program: Program, spending: Spending, telling: Telling) -> None:
        self.job = job
        self.plan = program.blueprint
        self.spending = spending
        self.telling = telling
        self.names = (job.component,) if job.component else tuple(job.champion.state)
        self.student = Student(program.module, self.names, Runs(job.budget.metric_calls, spending, telling))
        self.train = [Case.of(example, self.plan) for example in job.dataset.train]
        self.val = [Case.of(example, self.plan) for example in job.dataset.val]
        self.baseline: float | None = None
        self.best: Found | None = None
        self.ended: str | None = None

    def scored(
        self, gold: Case, pred: Any, _trace: Any = None, pred_name: str | None = None, pred_trace: Any = None
    ) -> dspy.Prediction:
        """The metric in GEPA's five-argument form: a score in [0, 1], and feedback in words.

        Asked about one predictor of several, it tells that one apart from the whole.
        """
        output = shown(self.plan, pred)
        fault = output.detail if isinstance(output, LmError) else None
        answer = None if isinstance(output, LmError) else output
        points, feedback = score(self.job.goal, gold.source, answer, error=fault)
        if pred_name is not None and len(self.job.champion.state) > 1:
            feedback = _about_step(pred_name, pred_trace, answer, feedback)
        return dspy.Prediction(score=points, feedback=feedback)

    def graded(self, gold: Case, pred: Any, _trace: Any = None) -> float:
        """The score alone, as the other optimizers ask for it."""
        return float(self.scored(gold, pred).score)

    def seeded(self, mean: float) -> bool:
        """The champion's mean score on the valset; False, and the run is stopped, where it cannot be improved on.

        So it is where too many calls failed to tell what it is worth, and where it makes no mistake.
        """
        failed, limit = self.spending.failed["student"], SEED_TOLERATED * len(self.val) * len(self.job.champion.state)
        if failed > limit and self.spending.stopped is None:
            self.spending.stop("void", f"{failed} calls failed while the champion was scored: {self.spending.fault}")
        if self.spending.stopped is not None:
            return False
        self.baseline = mean
        self.telling.now(best_score=mean)
        self.telling.tell("baseline", f"the champion scores {mean:.1%} on the valset of {len(self.val)} examples")
        if mean >= 1:
            self.spending.stop("enough", "the champion makes no mistake on the valset: there is nothing to improve")
        return mean < 1

    def found(self, parts: dict[str, Any], mean: float) -> None:
        """The score on the whole valset of the champion with other `parts` (predictors as DSPy saves them)."""
        if self.spending.stopped is not None:
            return
        if self.baseline is None or mean <= (self.best.score if self.best else self.baseline):
            return
        try:
            self.best = Found(self.state_with(parts), mean)
        except Invalid as fault:
            self.telling.tell("rejected", f"what scores {mean:.3f} on the valset cannot be kept: {fault.detail:.500}")
        else:
            self.telling.now(best_score=mean)

    def state_with(self, parts: dict[str, Any]) -> State:
        """The champion's state with other parts, read as strictly as an upload. Raises: Invalid."""
        changed = {name: self._kept(name, part) for name, part in parts.items() if name in self.names}
        return read_state(self.job.champion.state | changed, self.plan.predictors)

    def keep_back(self) -> None:
        """Sets aside what the sealed holdout will cost and take: champion and candidate on each of its examples."""
        answers = 2 * len(self.job.dataset.holdout) * _HEADROOM
        runs, calls = self.telling.progress.metric_calls, self.spending.ledger.calls["student"]
        self.spending.kept_back = round(answers * self.spending.paid["student"] / max(1, runs))
        self.spending.kept_time = round(answers * len(self.job.champion.state) * self.spending.worked / max(1, calls))

    def _kept(self, name: str, part: dict[str, Any]) -> dict[str, Any]:
        """A part without what an optimizer left on its demos beside the predictor's own fields."""
        slots = self.plan.predictors[name].slots
        demos = [{key: demo[key] for key in demo if key in slots} for demo in part["demos"]]
        return {"instructions": part["instructions"], "demos": demos}


def _about_step(name: str, trace: Any, answer: dict[str, Any] | None, feedback: str) -> str:
    """Feedback on the whole program, for whoever rewrites one of its steps."""
    given = dict(trace[0][2].items()) if trace else {}
    return (
        f"This is the step {name!r} of a program of several steps. It answered {given!r:.600}; the program as a whole "
        f"then answered {answer!r:.600}. About the program's answer: {feedback}"
    )
