"""What happened: predictions and their outcomes. Append-only; a fact never changes.

What the tests need (arm, propensity, status, value) is kept apart from personal content (inputs, outputs, labels,
comments), so that content can be deleted while every decision stays replayable.
"""

from typing import Any, Literal

import msgspec

from experiments.metrics import Source

Status = Literal["ok", "fallback", "error"]
_SHADOW = "~shadow"
OutcomeStatus = Literal["accepted", "duplicate", "conflict", "late", "rejected"]


def shadow_id(prediction_id: str) -> str:
    """Under which the challenger's answer to the same request is kept, in an experiment by pairs."""
    return prediction_id + _SHADOW


def shadowed_id(prediction_id: str) -> str | None:
    """The prediction whose shadow this is; None for one that was served.

    >>> shadowed_id(shadow_id("p")), shadowed_id("p")
    ('p', None)
    """
    return prediction_id.removesuffix(_SHADOW) if prediction_id.endswith(_SHADOW) else None


class Call(msgspec.Struct, frozen=True):
    """One call of a language model made for a prediction. `cost` in picodollars, None if unpriced; `latency` in µs."""

    variant: str
    model: str
    input_tokens: int
    output_tokens: int
    cost: int | None
    latency: int


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One prediction, without its content.

    `variant` is the one whose answer was served (None when nobody answered), `assigned_variant` the one the unit was
    given; `status` is ok when those are the same answer, fallback when the champion stood in, error when all failed.
    `propensity` is the probability with which the unit was assigned. `experiment_id` is None for predictions that count
    in no test. `created_at` is the moment of assignment, `answered_at` the end of the work; `latency` and `cost` sum
    over everything done for the prediction, `assigned_cost` and `assigned_tokens` (in and out) over the assigned
    variant's own calls. `covariates` are the values in its metadata that the experiment asked for: a copy, since
    content may be deleted and evidence may not. `trace_id` is that of the caller's trace, or the server's own: 32
    hexadecimal digits, None where nobody traced.
    """

    prediction_id: str
    program: str
    experiment_id: str | None
    epoch: int
    unit_hash: str
    assigned_variant: str
    variant: str | None
    propensity: float
    status: Status
    error: str | None
    latency: int
    input_tokens: int
    output_tokens: int
    cost: int | None
    assigned_cost: int | None
    assigned_tokens: int | None
    calls: tuple[Call, ...]
    created_at: int
    answered_at: int
    covariates: dict[str, float | str] = {}
    trace_id: str | None = None


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """The personal part of a prediction; may be deleted while the prediction stays."""

    prediction_id: str
    unit: str | None
    input: dict[str, Any]
    output: dict[str, Any] | None
    error_detail: str | None
    metadata: dict[str, Any]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One metric's value for one prediction from one source, as it is to be recorded.

    `digest` tells two values or labels apart without keeping them; `late` says that the outcome came after the window.
    """

    prediction_id: str
    metric: str
    source: Source
    value: float
    digest: str
    late: bool
    received_at: int


class Remark(msgspec.Struct, frozen=True, kw_only=True):
    """What a person or program said beside an outcome, kept for learning: the label as reported, a comment."""

    prediction_id: str
    source: Source
    digest: str
    label: dict[str, Any] | None
    comment: str | None
    received_at: int


class Exposure(msgspec.Struct, frozen=True):
    """One prediction of a unit as the tests see it. `outcomes` holds (metric, source, value, received_at).

    `latency` and `cost` are those of the whole prediction, a fallback's included; `tokens` the assigned variant's own.
    """

    prediction_id: str
    created_at: int
    failed: bool
    latency: int
    cost: int | None
    tokens: int | None
    outcomes: tuple[tuple[str, Source, float, int], ...]
    covariates: dict[str, float | str] = {}


class Entrant(msgspec.Struct, frozen=True):
    """A unit at its first exposure in an experiment, with its predictions in the arm it entered, in assignment order.

    Under `randomize: request` every prediction is a unit of its own; of tries with one Idempotency-Key the first is.
    """

    unit_hash: str
    arm: str
    epoch: int
    entered_at: int
    exposures: tuple[Exposure, ...]

    @property
    def covariates(self) -> dict[str, float | str]:
        """What was known before the unit was assigned: nothing after its first exposure can be called that."""
        return self.exposures[0].covariates if self.exposures else {}


class ArmCounts(msgspec.Struct, frozen=True):
    """Predictions of one arm: all, with an outcome in time, still waiting, waited in vain, with a late outcome."""

    assigned: int = 0
    arrived: int = 0
    pending: int = 0
    missing: int = 0
    late: int = 0
