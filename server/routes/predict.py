"""Predict: one, or a batch."""

from typing import Annotated, cast

from litestar import Request, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.params import HeaderParameter, JSONBody

from experiments.errors import Busy, Conflict, Invalid, KeyReused, LmFailed, LmTimeout, NotFound, TooLarge
from server.auth import require
from server.bodies import Strict
from server.openapi import operation
from server.parameters import PathName
from server.ratchet import Ratchet
from server.serving import predictions
from server.serving.items import EachAlone
from server.wire.serving import BatchAnswer, BatchRequest, PredictAnswer, PredictRequest

HttpRequest = Request[object, object, State]
IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        min_length=1,
        max_length=256,
        description="Retries with the same key and body get the first answer; kept for 24 hours.",
    ),
]


@post(
    "/v1/programs/{program:str}/predict",
    tags=["serving"],
    dto=Strict[PredictRequest],
    return_dto=None,
    status_code=200,
    **operation("predict", NotFound, Conflict, KeyReused, TooLarge, LmFailed, LmTimeout, Busy),
)
async def predict(
    request: HttpRequest,
    program: PathName,
    data: JSONBody[PredictRequest],
    ratchet: NamedDependency[Ratchet],
    idempotency_key: IdempotencyKey = None,
) -> PredictAnswer:
    """Answer once, through the split in force. When this answers, the prediction is on disk.

    Pinning a `variant` takes the scope `operate`. A failure of the language model is 502 or 504; the prediction is
    recorded nevertheless and its id is in the problem.
    """
    if data.variant is not None:
        require(request, "operate")
    return await predictions.predict_once(ratchet, program, data, idempotency_key)


@post(
    "/v1/programs/{program:str}/predict/batch",
    tags=["serving"],
    dto=EachAlone[BatchRequest],
    return_dto=None,
    status_code=200,
    **operation("predict", NotFound, Conflict, KeyReused, TooLarge, Busy),
)
async def predict_batch(
    request: HttpRequest,
    program: PathName,
    data: JSONBody[BatchRequest],
    ratchet: NamedDependency[Ratchet],
    idempotency_key: IdempotencyKey = None,
) -> BatchAnswer:
    """Answer up to 256 items, each an answer or a problem, in order. An Idempotency-Key counts for the whole batch."""
    items = cast("list[PredictRequest | Invalid]", data.items)  # what `EachAlone` puts into the list
    if any(isinstance(item, PredictRequest) and item.variant is not None for item in items):
        require(request, "operate")
    return await predictions.predict_batch(ratchet, program, items, idempotency_key)


HANDLERS: list[HTTPRouteHandler] = [predict, predict_batch]
