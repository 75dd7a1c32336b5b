"""Health and metrics, for orchestrators and Prometheus; open to everyone who reaches the port."""

from typing import Literal

import msgspec
from litestar import MediaType, Response, get
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec

from server.health import Readiness, readiness
from server.openapi import operation
from server.ratchet import Ratchet

PROMETHEUS_TEXT = "text/plain; version=0.0.4"
"""Litestar adds the charset."""
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
    return Response(told, status_code=200 if told.status == "ok" else 503)


@get("/metrics", tags=["operations"], media_type=MediaType.TEXT, **operation(None))
async def metrics(ratchet: NamedDependency[Ratchet]) -> Response[bytes]:
    """Every metric in Prometheus's text format."""
    return Response(ratchet.metrics.render(), media_type=PROMETHEUS_TEXT)


HANDLERS: list[HTTPRouteHandler] = [live, ready, metrics]
