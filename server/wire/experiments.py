"""Experiments and what is decided about them, on the wire."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from experiments.assignment import Routing
from experiments.experiment import By, State, Verdict
from experiments.experiment import Decision as DomainDecision
from experiments.experiment import Experiment as DomainExperiment
from experiments.settings import ExperimentSettings
from server.wire.scalars import Name, Share, Time, moment, moment_or_none, seconds

Reason = Annotated[str, Meta(min_length=1, max_length=2000, description="Why; it is kept with the decision.")]


class Act(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A person's act on an experiment. `variant` names the challenger for `promote`; other acts take none."""

    reason: Reason
    variant: Name | None = None


class Reshare(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new split of a running or paused experiment: every arm's name and share. From then on nothing else moves it."""

    split: Annotated[dict[str, Share], Meta(min_length=2, max_length=21)]
    reason: Reason | None = None


class Arm(msgspec.Struct, frozen=True):
    """A variant in an experiment, with its share of the traffic in force (0 when the experiment routes none)."""

    variant: str
    role: Literal["champion", "challenger"]
    split: Share


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The options an experiment was created with, every default filled in; durations in seconds."""

    allocation: Literal["fixed", "adaptive"]
    pairs: bool
    ramp: list[Share]
    alpha: float
    min_effect: float
    max_units: int
    min_units: int
    ramp_units: int
    holdback_units: int
    min_duration: float
    max_duration: float
    outcome_window: float
    block: float
    holdback: Share
    covariates: list[str]


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """One experiment as it stands. `level` is its significance level, given at start; null before and for A/A."""

    experiment_id: str
    program: str
    state: State
    verdict: Verdict | None
    reason: str | None
    rolled_back: bool
    objective: Literal["better", "as_good_and_cheaper"]
    randomize: Literal["unit", "request"]
    goal: str
    guardrails: list[str]
    promotion: Literal["auto", "recommend"]
    aa: bool
    arms: list[Arm]
    epoch: int | None
    level: float | None
    settings: Settings
    created_at: Time
    started_at: Time | None
    concluded_at: Time | None


class ExperimentPage(msgspec.Struct, frozen=True):
    """Experiments, newest first; `next_cursor` is null on the last page."""

    items: list[Experiment]
    next_cursor: str | None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One conclusion about an experiment. `evidence` is the report as it was seen then; it never changes."""

    decision_id: str
    experiment_id: str
    tick: int
    verdict: str
    reason: str
    by: By
    actor: str | None
    evidence: dict[str, Any]
    split_before: dict[str, Share]
    split_after: dict[str, Share]
    created_at: Time


class DecisionPage(msgspec.Struct, frozen=True):
    """Decisions, newest first; `next_cursor` is null on the last page."""

    items: list[Decision]
    next_cursor: str | None


def experiment(found: DomainExperiment, routing: Routing | None) -> Experiment:
    """An experiment, with the shares of `routing` when that is the program's present rule and is about it."""
    present = routing if routing and routing.experiment_id == found.experiment_id else None
    split = present.split if present else found.split if found.state == "draft" else {}
    return Experiment(
        experiment_id=found.experiment_id,
        program=found.program,
        state=found.state,
        verdict=found.verdict,
        reason=found.reason,
        rolled_back=found.rolled_back,
        objective=found.settings.objective,
        randomize=found.settings.randomize,
        goal=found.goal,
        guardrails=list(found.guardrails),
        promotion=found.promotion,
        aa=found.aa,
        arms=[_arm(found, name, split) for name in found.arms],
        epoch=present.epoch if present else None,
        level=found.level,
        settings=_settings(found.settings),
        created_at=moment(found.created_at),
        started_at=moment_or_none(found.started_at),
        concluded_at=moment_or_none(found.concluded_at),
    )


def decision(made: DomainDecision) -> Decision:
    """A decision as it was stored."""
    return Decision(
        decision_id=made.decision_id,
        experiment_id=made.experiment_id,
        tick=made.tick,
        verdict=made.verdict,
        reason=made.reason,
        by=made.by,
        actor=made.actor,
        evidence=_evidence(made.evidence),
        split_before=made.split_before,
        split_after=made.split_after,
        created_at=moment(made.created_at),
    )


def _evidence(report: dict[str, Any]) -> dict[str, Any]:
    """The report as it was stored, with its time as one; empty for a decision about a draft."""
    at = report.get("computed_at")
    return {**report, "computed_at": moment(at)} if isinstance(at, int) else report


def _arm(found: DomainExperiment, name: str, split: dict[str, float]) -> Arm:
    return Arm(name, "champion" if name == found.champion else "challenger", split.get(name, 0.0))


def _settings(chosen: ExperimentSettings) -> Settings:
    return Settings(
        allocation=chosen.allocation,
        pairs=chosen.pairs,
        ramp=list(chosen.ramp),
        alpha=chosen.alpha,
        min_effect=chosen.min_effect,
        max_units=chosen.max_units,
        min_units=chosen.min_units,
        ramp_units=chosen.ramp_units,
        holdback_units=chosen.holdback_units,
        min_duration=seconds(chosen.min_duration),
        max_duration=seconds(chosen.max_duration),
        outcome_window=seconds(chosen.outcome_window),
        block=seconds(chosen.block),
        holdback=chosen.holdback,
        covariates=list(chosen.covariates),
    )
