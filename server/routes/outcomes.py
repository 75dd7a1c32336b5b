"""Outcomes: what became of predictions."""

from typing import cast

from litestar import post
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from experiments.errors import Busy, Invalid, TooLarge
from server.openapi import operation
from server.ratchet import Ratchet
from server.serving import outcomes
from server.serving.items import EachAlone
from server.wire.serving import OutcomeItem, OutcomesAnswer, OutcomesRequest


@post(
    "/v1/outcomes",
    tags=["serving"],
    dto=EachAlone[OutcomesRequest],
    return_dto=None,
    status_code=200,
    **operation("outcomes", TooLarge, Busy),
)
async def report_outcomes(data: JSONBody[OutcomesRequest], ratchet: NamedDependency[Ratchet]) -> OutcomesAnswer:
    """Report up to 1,000 outcomes. Each stands alone, and the same one again changes nothing, so retries are safe."""
    items = cast("list[OutcomeItem | Invalid]", data.outcomes)  # what `EachAlone` puts into the list
    return OutcomesAnswer(await outcomes.report(ratchet, items))


HANDLERS: list[HTTPRouteHandler] = [report_outcomes]
