"""Predictions asked for, outcomes reported, and problems: what applications send and get."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from experiments.errors import Fault
from experiments.facts import OutcomeStatus
from experiments.metrics import Source
from server.wire.predictions import Usage
from server.wire.scalars import Money, Name, Share

MAX_BATCH = 256
MAX_OUTCOMES = 1_000


class PredictRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One prediction asked for.

    `input` holds the program's input fields, `unit` is who or what is randomised, `variant` pins one variant (scope
    operate; such a prediction counts in no experiment), `metadata` is kept and given back.
    """

    input: dict[str, Any]
    unit: Name | None = None
    variant: Name | None = None
    metadata: dict[str, Any] = {}


class BatchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Up to 256 predictions, answered together."""

    items: Annotated[list[PredictRequest], Meta(min_length=1, max_length=MAX_BATCH)]


class PredictAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One prediction, durably recorded.

    `variant` is the one whose answer this is, `assigned_variant` the one the unit was given; they differ when the
    champion stood in (`fallback`). `cost_usd` is null where no price is known.
    """

    prediction_id: str
    program: str
    variant: str
    assigned_variant: str
    experiment_id: str | None
    propensity: Share
    output: dict[str, Any]
    fallback: bool
    usage: Usage
    cost_usd: Money | None
    latency_ms: float


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as RFC 9457 problem details. `prediction_id` is there when a failed prediction was recorded."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[Fault, ...]
    request_id: str | None
    prediction_id: str | None = None


class BatchAnswer(msgspec.Struct, frozen=True):
    """One answer or problem for each item, in order."""

    results: list[PredictAnswer | Problem]


class OutcomeItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing said about one prediction: a `label`, or `metric` and `value`, or only a `comment`."""

    prediction_id: str
    metric: str | None = None
    value: bool | float | None = None
    label: dict[str, Any] | None = None
    comment: str | None = None
    source: Source = "human"


class OutcomesRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Up to 1,000 outcomes; each stands alone."""

    outcomes: Annotated[list[OutcomeItem], Meta(max_length=MAX_OUTCOMES)]


class OutcomeResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one outcome; `detail` says why it was rejected."""

    prediction_id: str | None
    status: OutcomeStatus
    detail: str | None = None


class OutcomesAnswer(msgspec.Struct, frozen=True):
    """One result for each outcome, in order."""

    results: list[OutcomeResult]
