"""One compile run from its job to its result: look before you leap, search, and score on the sealed holdout."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy
import msgspec
from dspy.clients.engines.litellm_engine import AsyncLiteLLMEngine, LiteLLMEngine
from dspy.utils.callback import BaseCallback

from experiments.errors import Invalid, Unavailable, nearest
from experiments.quantities import dollars
from learning.compile_runs import Job, Progress, Result
from learning.compiling.copying import copied
from learning.compiling.estimates import NEEDS_OPTUNA, installed, min_metric_calls, refusal
from learning.compiling.optimizers import optimize
from learning.compiling.pairing import paired
from learning.compiling.searching import Found, Search
from learning.compiling.telling import Telling
from learning.definitions import LmSettings
from learning.engines.ledger import Ledger, Role
from learning.engines.recorded import Account, AsyncRecordedEngine, RecordedEngine
from learning.engines.spending import Spending, Stop
from learning.feedback.scoring import rescorable
from learning.lms import Lm, open_lm
from learning.modules import said
from learning.programs import open_program
from learning.variants import lm_identity, lm_in_force

_RETRIES = 3
"""Of a call that failed for the moment: nobody is waiting for this answer, and a hole in the scores is worse."""


_LOGGING = {
    "dspy": logging.WARNING,
    "dspy.utils.parallelizer": logging.CRITICAL,
    "dspy.teleprompt.bootstrap": logging.CRITICAL,
}
_TRIED = 3
"""Examples on which a student LM may show that it answers."""


class Compilation:
    """A run in its directory, once. `clock` gives µs; a stop from any thread ends the run within moments."""

    def __init__(
        self, job: Job, folder: Path, clock: Callable[[], int], open_lm: Callable[[LmSettings], Lm] = open_lm
    ) -> None:
        self.job = job
        self._ledger = Ledger(folder / "calls.jsonl", clock())
        self.spending = Spending(
            self._ledger, limit=job.budget.cost, time=job.budget.time, earlier=job.spent, clock=clock
        )
        progress = Progress(metric_calls_budget=job.budget.metric_calls)
        self.telling = Telling(folder / "events.jsonl", self.spending, progress, clock)
        self._student = lm_in_force(job.champion, job.definition)
        self._reflection = job.reflection_lm or self._student
        self._clock = clock
        self._open_lm = open_lm

    def run(self) -> Result:
        """The result, told as the last event too.

        Raises: Unavailable when ledger or events cannot be written: there is no result then, and the run can be taken
        up again. Invalid when the job fits no program here.
        """
        known = f"; {self._ledger.known} calls are known and are not paid again" if self._ledger.known else ""
        self.telling.tell("started", f"{self.job.optimizer} on {self.job.champion.name}{known}")
        result = self._result()
        if self.spending.stopped is not None and self.spending.stopped.kind == "broken":
            raise Unavailable(self.spending.stopped.reason)
        self.telling.tell("ended", f"{result.outcome}: {result.reason}")
        return result

    def _result(self) -> Result:
        _check(self.job)
        if reason := refusal(self.job, self._student, self._reflection):
            return self._ended("budget", reason)
        try:
            student, reflection = self._open("student", self._student), self._open("reflection", self._reflection)
        except Invalid as error:
            return self._ended("void", error.detail)
        search = Search(self.job, open_program(self.job.champion), self.spending, self.telling)
        self._look_for_better(search, student, reflection)
        stop = self.spending.stopped
        self.spending.resume()
        best = search.best
        if best is None or self.spending.stopped is not None:
            outcome = "no-candidate" if stop is None or stop.kind == "enough" else stop.kind
            return self._ended(outcome, stop.reason if stop else _nothing_better(search), search)
        return self._with_candidate(search, best, student, stop)

    def _look_for_better(self, search: Search, student: Lm, reflection: Lm) -> None:
        with _quiet(), dspy.context(lm=student.model, adapter=student.adapter, warn_on_type_mismatch=False):
            self._preflight(search, student, reflection)
            self._search(search, reflection)
        if search.student.loop is not None:
            search.student.loop.run(student.aclose())
            search.student.loop.close()

    def _open(self, role: Role, settings: LmSettings) -> Lm:
        """The LM, behind the ledger."""
        lm = self._open_lm(settings)
        account = Account(role, settings, lm_identity(settings), self._ledger, self.spending, self._clock)
        inner, inner_async = _engines(lm)
        model = lm.model.copy(
            engine=RecordedEngine(inner, account),
            async_engine=AsyncRecordedEngine(inner_async, account),
            num_retries=_RETRIES,
            callbacks=[_Hearing(role, self.spending)],
            api_key=None,
            timeout=None,
        )
        return msgspec.structs.replace(lm, model=model)

    def _preflight(self, search: Search, student: Lm, reflection: Lm) -> None:
        """One real call to each LM, before anything is built on their answers."""
        self._ask_student(search)
        if self.job.optimizer != "bootstrap_few_shot" and self.spending.stopped is None:
            try:
                with dspy.context(lm=reflection.model, adapter=reflection.adapter):
                    dspy.Predict("request: str -> reply: str")(request="Reply with the one word: ready")
            except dspy.LMError as error:
                self._void(f"the reflection LM does not answer: {said(error)}")
            except dspy.DSPyError:
                self.telling.tell("preflight", "the reflection LM answers in a form that cannot be read")
        if self.spending.stopped is None:
            self.telling.tell("preflight", f"{student.settings.model} and {reflection.settings.model} answer")
            self._check_money(search)

    def _ask_student(self, search: Search) -> None:
        """The first example's answer; where the LM fails at that, the next two, as the fault may be the example's."""
        fault: dspy.LMError | None = None
        for case in search.train[:_TRIED]:
            try:
                search.student.answer(**case.inputs())
            except dspy.LMError as error:
                fault = error
            except Exception as error:  # noqa: BLE001  # an operator's own code may raise anything, or find nothing
                self.telling.tell("preflight", f"the answer to {case.source.prediction_id} is of no use: {said(error)}")
                return
            else:
                return
        self._void(f"the student LM does not answer: {said(fault) if fault else 'there is nothing to ask'}")

    def _void(self, reason: str) -> None:
        """A call failed; where that is because the run has stopped, the reason for that stands."""
        if self.spending.stopped is None:
            self.spending.stop("void", reason)

    def _check_money(self, search: Search) -> None:
        """Stops a run whose first answer says that its dollars cannot last to a result."""
        left = self.spending.left
        least = min_metric_calls(self.job.optimizer, len(search.val)) + 2 * len(self.job.dataset.holdout)
        needed = least * self.spending.paid["student"]
        if left is not None and needed > left:
            reason = f"${dollars(left)} is too little: {least} answers at the price of the first are ${dollars(needed)}"
            self.spending.stop("budget", reason)

    def _search(self, search: Search, reflection: Lm) -> None:
        """Once the run is stopped calls fail, and so may the optimizer, in whatever way."""
        if self.spending.stopped is None:
            try:
                optimize(search, reflection)
            except Exception:
                if self.spending.stopped is None:
                    raise

    def _with_candidate(self, search: Search, best: Found, student: Lm, stop: Stop | None) -> Result:
        dataset = self.job.dataset
        self.telling.tell("holdout", f"champion and candidate answer {len(dataset.holdout)} sealed examples")
        candidate = msgspec.structs.replace(self.job.champion, id="candidate", state=best.state)
        pairs = asyncio.run(paired(self.job, candidate, student, self.spending))
        if self.spending.stopped is not None and (self.spending.stopped.kind != "budget" or not pairs):
            return self._ended(self.spending.stopped.kind, self.spending.stopped.reason, search)
        reason = f"{best.score:.1%} on the valset against the champion's {search.baseline:.1%}"
        if stop is not None:
            reason += f"; the best until {stop.reason}"
        if len(pairs) < len(dataset.holdout):
            reason += f"; only {len(pairs)} of {len(dataset.holdout)} sealed examples fitted the budget"
        shown = [example.input | example.label for example in (*dataset.train, *dataset.val)]
        return msgspec.structs.replace(
            self._ended("candidate", reason, search),
            state=best.state,
            candidate_val=best.score,
            holdout=tuple(pairs),
            copied=copied(best.state, self.job.champion.state, shown),
        )

    def _ended(self, outcome: Any, reason: str, search: Search | None = None) -> Result:
        return Result(
            outcome=outcome,
            reason=reason,
            baseline_val=search.baseline if search else None,
            student_calls=self._ledger.calls["student"],
            reflection_calls=self._ledger.calls["reflection"],
            metric_calls=self.telling.progress.metric_calls,
            spent=self.spending.spent,
        )


class _Hearing(BaseCallback):  # type: ignore[misc]  # DSPy ships no types
    """Hears how each call of one LM ended, after its retries."""

    def __init__(self, role: Role, spending: Spending) -> None:
        self._role = role
        self._spending = spending

    def on_lm_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:  # noqa: ARG002  # DSPy's
        """As DSPy calls it."""
        self._spending.heard(self._role, None if exception is None else said(exception))


def _check(job: Job) -> None:
    """Raises: Invalid where a job cannot be run at all, naming the definition's key."""
    if job.optimizer not in installed():
        raise Invalid.at("/learning/optimizer", NEEDS_OPTUNA)
    if job.component is not None and job.component not in job.champion.state:
        reason = f"{job.component!r} is no predictor of this program; {nearest(job.component, job.champion.state)}"
        raise Invalid.at("/learning/component", reason)
    if (fault := rescorable(job.goal)) is not None:
        raise Invalid.at("/metrics", fault)
    if not (job.dataset.train and job.dataset.val and job.dataset.holdout):
        raise Invalid.at("/dataset", "trainset, valset and holdout must each hold an example")


def _nothing_better(search: Search) -> str:
    nothing = f"nothing scores better than the champion's {search.baseline:.3f} on the valset"
    return f"{nothing}; {search.ended}" if search.ended else nothing


def _engines(lm: Lm) -> tuple[Any, Any]:
    """The engines inside an LM; what LiteLLM is told per call is told to an engine made for it."""
    if not isinstance(lm.model.engine, str):
        return lm.model.engine, lm.model._async_engine_spec  # noqa: SLF001  # has no public name
    options = {name: lm.model.kwargs[name] for name in ("api_key", "timeout") if name in lm.model.kwargs}
    return LiteLLMEngine(**options), AsyncLiteLLMEngine(**options)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without DSPy's progress bars, and without its error messages, which hold whole examples."""
    levels = {logging.getLogger(name): level for name, level in _LOGGING.items()}
    before = {logger: logger.level for logger in levels}
    try:
        for logger, level in levels.items():
            logger.setLevel(level)
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
