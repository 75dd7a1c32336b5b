"""Stored predictions with everything that became of them, on the wire: the examples browser."""

from typing import Any

import msgspec

from experiments.facts import Call as DomainCall
from experiments.facts import OutcomeStatus
from experiments.metrics import Source
from server.store.facts import Example, Reported
from server.wire.scalars import Money, Share, Time, milliseconds, moment, usd


class Usage(msgspec.Struct, frozen=True):
    """Tokens of all LM calls made for a prediction."""

    input_tokens: int
    output_tokens: int


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One LM call; `cost_usd` is null when the model has no price."""

    variant: str
    model: str
    usage: Usage
    cost_usd: Money | None
    latency_ms: float


class StoredOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What was reported about a prediction. `metric` and `value` are null for a label or comment that decides none.

    `status`: accepted, late (in no test) or conflict (contradicts an earlier one of the same source, not used).
    """

    metric: str | None
    value: float | None
    label: dict[str, Any] | None
    comment: str | None
    source: Source
    status: OutcomeStatus
    received_at: Time


class StoredPrediction(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction with its content and outcomes. `variant` is who answered, null when nobody did.

    `unit`, `input`, `output` and `metadata` are null or empty where the content has been deleted; `trace_id` is null
    where neither the caller nor the server traced.
    """

    prediction_id: str
    program: str
    variant: str | None
    assigned_variant: str
    experiment_id: str | None
    epoch: int
    propensity: Share
    unit: str | None
    input: dict[str, Any] | None
    output: dict[str, Any] | None
    error: str | None
    fallback: bool
    usage: Usage
    cost_usd: Money | None
    calls: list[Call]
    latency_ms: float
    metadata: dict[str, Any]
    trace_id: str | None
    created_at: Time
    outcomes: list[StoredOutcome]


class PredictionPage(msgspec.Struct, frozen=True):
    """Predictions, newest first; `next_cursor` is null on the last page."""

    items: list[StoredPrediction]
    next_cursor: str | None


def prediction(found: Example) -> StoredPrediction:
    """A stored prediction with all that is known about it."""
    fact, content = found.prediction, found.content
    return StoredPrediction(
        prediction_id=fact.prediction_id,
        program=fact.program,
        variant=fact.variant,
        assigned_variant=fact.assigned_variant,
        experiment_id=fact.experiment_id,
        epoch=fact.epoch,
        propensity=fact.propensity,
        unit=content.unit if content else None,
        input=content.input if content else None,
        output=content.output if content else None,
        error=fact.error,
        fallback=fact.status == "fallback",
        usage=Usage(fact.input_tokens, fact.output_tokens),
        cost_usd=usd(fact.cost),
        calls=[_call(c) for c in fact.calls],
        latency_ms=milliseconds(fact.latency),
        metadata=content.metadata if content else {},
        trace_id=fact.trace_id,
        created_at=moment(fact.created_at),
        outcomes=[_outcome(reported) for reported in found.outcomes],
    )


def _call(call: DomainCall) -> Call:
    return Call(
        variant=call.variant,
        model=call.model,
        usage=Usage(call.input_tokens, call.output_tokens),
        cost_usd=usd(call.cost),
        latency_ms=milliseconds(call.latency),
    )


def _outcome(reported: Reported) -> StoredOutcome:
    return StoredOutcome(
        metric=reported.metric,
        value=reported.value,
        label=reported.label,
        comment=reported.comment,
        source=reported.source,
        status=reported.status,
        received_at=moment(reported.received_at),
    )
