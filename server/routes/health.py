"""Health and metrics, for orchestrators and Prometheus; open to everyone who reaches the port."""

import asyncio
from typing import Any, Literal

import msgspec
from litestar import MediaType, Request, Response, get
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec

from server.health import Readiness, readiness
from server.openapi import operation
from server.ratchet import Ratchet

ASK_AGAIN = 2
"""Seconds after which an unready server may be asked again."""
UNREADY = ResponseSpec(Readiness, description="It cannot serve; the body says why.", generate_examples=False)


class Live(msgspec.Struct, frozen=True):
    """The process answers."""

    status: Literal["ok"] = "ok"


@get("/health/live", tags=["operations"], **operation(None))
async def live() -> Live:
    """Whether the process answers at all; restart it when it does not."""
    return Live()


@get("/health/ready", tags=["operations"], **operation(None, also={503: UNREADY}))
async def ready(ratchet: NamedDependency[Ratchet]) -> Response[Readiness]:
    """Whether it can serve: 200, or 503 with what is wrong. Send no traffic while it is not."""
    told = await readiness(ratchet)
    if told.status == "ok":
        return Response(told)
    return Response(told, status_code=503, headers={"Retry-After": str(ASK_AGAIN)})


@get("/metrics", tags=["operations"], media_type=MediaType.TEXT, **operation(None))
async def metrics(request: Request[Any, Any, Any], ratchet: NamedDependency[Ratchet]) -> Response[bytes]:
    """Every metric in Prometheus's text format; in OpenMetrics, with exemplars, where the Accept header asks for it."""
    # In a thread: predictions go on while thousands of series are written out.
    found = await asyncio.to_thread(ratchet.metrics.exposition, request.headers.get("accept"))
    return Response(found.body, headers={"Content-Type": found.media_type})


HANDLERS: list[HTTPRouteHandler] = [live, ready, metrics]
