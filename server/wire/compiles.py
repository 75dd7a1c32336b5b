"""Compile runs, what happens in them, and what one would cost, on the wire."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from learning.compile_runs import CompileRun as DomainRun
from learning.compile_runs import Event as DomainEvent
from learning.compile_runs import Optimizer, Progress, Reason, RunState, Verdict
from learning.compiling.estimates import Estimate
from server.wire.scalars import Money, Time, finite, moment, moment_or_none, usd

EventKind = Literal[
    "started", "preflight", "baseline", "proposed", "accepted", "rejected", "progress", "holdout", "ended"
]


class NewCompile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A compile as asked for. What is left out comes from the program's `learning:` section.

    With `dry_run` nothing happens: the answer says what it would take.
    """

    optimizer: Literal["auto", "gepa", "mipro", "bootstrap_few_shot"] | None = None
    budget_usd: Annotated[str | float, Meta(description="US dollars, such as 5 or '0.25'.")] | None = None
    dry_run: bool = False


class CompileProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is. `best_score` is the best on the valset so far, from 0 to 1; null before the baseline's."""

    iteration: int
    metric_calls: int
    metric_calls_budget: int
    best_score: float | None


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """What the sealed holdout said of the candidate. `gain` is its mean score less the champion's, paired.

    `lower` is the one-sided lower bound of the gain at `confidence`. `faults` are the reasons to reject it.
    """

    admitted: bool
    faults: list[str]
    examples: int
    baseline_score: float
    candidate_score: float
    gain: float
    lower: float
    confidence: float
    cost_growth: float | None
    latency_growth: float | None
    prompt_characters: int


class CompileExamples(msgspec.Struct, frozen=True, kw_only=True):
    """How many examples are in each part of a run's dataset."""

    train: int
    val: int
    holdout: int


class CompileRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run. The scores are the champion's and the candidate's on the sealed holdout.

    `variant` is the admitted candidate, `experiment_id` its trial. `error` says why the run ended without a candidate,
    or why its candidate is not on trial. `examples` counts what it learns from and is judged by; `warnings` say what is
    worth knowing of these, in sentences.
    """

    compile_id: str
    program: str
    state: RunState
    reason: Reason
    optimizer: Optimizer
    progress: CompileProgress
    spent_usd: Money
    budget_usd: Money | None
    baseline_score: float | None
    candidate_score: float | None
    gate: Gate | None
    variant: str | None
    experiment_id: str | None
    error: str | None
    created_at: Time
    finished_at: Time | None
    examples: CompileExamples | None
    warnings: list[str]


class CompilePage(msgspec.Struct, frozen=True):
    """Compile runs, newest first; `next_cursor` is null on the last page."""

    items: list[CompileRun]
    next_cursor: str | None


class CompileEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened in a run. `said` is for people; `text` is the instruction that was proposed."""

    number: int
    kind: EventKind
    at: Time
    said: str
    progress: CompileProgress
    spent_usd: Money
    predictor: str | None
    text: str | None


class DryRun(msgspec.Struct, frozen=True, kw_only=True):
    """What a compile would take, by today's data and prices; the cost is null where a price is not known."""

    student_calls: int
    reflection_calls: int
    cost_usd: Money | None
    min_metric_calls: int


def compile_run(found: DomainRun) -> CompileRun:
    """A run as it stands."""
    return CompileRun(
        compile_id=found.compile_id,
        program=found.program,
        state=found.state,
        reason=found.reason,
        optimizer=found.optimizer,
        progress=_progress(found.progress),
        spent_usd=usd(found.spent) or "0",
        budget_usd=usd(found.budget.cost),
        baseline_score=found.baseline_score,
        candidate_score=found.candidate_score,
        gate=None if found.gate is None else _gate(found.gate),
        variant=found.variant,
        experiment_id=found.experiment_id,
        error=found.error,
        created_at=moment(found.created_at),
        finished_at=moment_or_none(found.finished_at),
        examples=CompileExamples(**found.examples) if found.examples else None,
        warnings=list(found.quality.get("warnings", ())),
    )


def compile_event(number: int, event: DomainEvent) -> CompileEvent:
    """One event with its number in the run."""
    return CompileEvent(
        number=number,
        kind=event.kind,
        at=moment(event.at),
        said=event.said,
        progress=_progress(event.progress),
        spent_usd=usd(event.spent) or "0",
        predictor=event.predictor,
        text=event.text,
    )


def dry_run(found: Estimate) -> DryRun:
    """What a run would take."""
    return DryRun(
        student_calls=found.student_calls,
        reflection_calls=found.reflection_calls,
        cost_usd=usd(found.cost),
        min_metric_calls=found.min_metric_calls,
    )


def _progress(made: Progress) -> CompileProgress:
    return CompileProgress(
        iteration=made.iteration,
        metric_calls=made.metric_calls,
        metric_calls_budget=made.metric_calls_budget,
        best_score=made.best_score,
    )


def _gate(verdict: Verdict) -> Gate:
    values: dict[str, Any] = msgspec.structs.asdict(verdict)
    growth = {name: finite(values[name]) for name in ("cost_growth", "latency_growth")}
    return Gate(**{**values, **growth, "faults": list(verdict.faults)})
