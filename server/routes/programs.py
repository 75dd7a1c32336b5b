"""Programs as they are served, their predictions, and figures per variant."""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from experiments.errors import Invalid, NotFound, nearest
from experiments.quantities import duration
from monitoring.signals import Status
from server.openapi import operation
from server.parameters import ETAG, Cursor, Limit, PathName, content_tag, tagged
from server.ratchet import Ratchet
from server.store.analytics import analytics
from server.store.definitions import StoredProgram, programs_page, stored_program
from server.store.drifts import drift_statuses
from server.store.facts import prediction_page
from server.wire import analytics as wire_analytics
from server.wire import predictions as wire_predictions
from server.wire import programs as wire
from server.wire.scalars import micros

Filter = Annotated[str | None, QueryParameter(min_length=1, max_length=256)]


@get("/v1/programs", tags=["programs"], **operation("read"))
async def list_programs(
    ratchet: NamedDependency[Ratchet], limit: Limit = 50, cursor: Cursor = None
) -> wire.ProgramPage:
    """Every program that is served: definition, champion, running experiment, split in force.

    One that cannot be loaded is left out here; /v1/status says why.
    """
    page = await ratchet.store.read(programs_page, limit=limit, cursor=cursor)
    drifting = await ratchet.store.read(drift_statuses)
    served = {program.name for program in ratchet.traffic.programs}
    listed = [_answer(ratchet, stored, drifting) for stored in page.items if stored.name in served]
    return wire.ProgramPage(listed, page.next_cursor)


@get("/v1/programs/{program:str}", tags=["programs"], response_headers=[ETAG], **operation("read", NotFound))
async def get_program(ratchet: NamedDependency[Ratchet], program: PathName) -> Response[wire.Program]:
    """One program: what it takes and gives, its metrics, who serves it, and the experiment that runs on it."""
    found = await answer(ratchet, program)
    return tagged(found, content_tag(found))


async def answer(ratchet: Ratchet, name: str) -> wire.Program:
    """A program as it is served now. Raises: NotFound; Unavailable when it could not be loaded."""
    stored = await ratchet.store.read(stored_program, name)
    return _answer(ratchet, stored, await ratchet.store.read(drift_statuses, name))


def _answer(ratchet: Ratchet, stored: StoredProgram, drifting: Mapping[str, Status]) -> wire.Program:
    served = ratchet.traffic.program(stored.name)
    drift = drifting.get(stored.name, "warming")
    return wire.program(stored.name, served.definition, served.blueprint, served.routing, drift, stored.created_at)


@get("/v1/programs/{program:str}/predictions", tags=["programs"], **operation("read", NotFound))
async def list_predictions(
    ratchet: NamedDependency[Ratchet],
    program: PathName,
    variant: Filter = None,
    metric: Filter = None,
    value: Annotated[
        float | None,
        QueryParameter(description="Only those with exactly this value of `metric`, such as 0 for failures."),
    ] = None,
    since: Annotated[datetime | None, QueryParameter(description="Only those made at this time or later.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> wire_predictions.PredictionPage:
    """Browse examples: predictions with input, output, calls, cost, and everything reported about them.

    `variant` is the assigned one.
    """
    metrics = ratchet.traffic.program(program).definition.metrics
    if metric is not None and metric not in metrics:
        raise Invalid.at("/query/metric", f"no metric is called {metric!r}; {nearest(metric, metrics)}")
    if value is not None and not math.isfinite(value):
        raise Invalid.at("/query/value", "must be a finite number")
    if since is not None and since.tzinfo is None:
        raise Invalid.at("/query/since", "give the zone too, such as 2026-01-31T12:00:00Z")
    page = await ratchet.store.read(
        prediction_page,
        program,
        variant=variant,
        metric=metric,
        value=value,
        since=None if since is None else micros(since),
        limit=limit,
        cursor=cursor,
    )
    return wire_predictions.PredictionPage([wire_predictions.prediction(p) for p in page.items], page.next_cursor)


@get("/v1/programs/{program:str}/analytics", tags=["programs"], **operation("read", NotFound))
async def get_analytics(
    ratchet: NamedDependency[Ratchet],
    program: PathName,
    window: Annotated[
        str, QueryParameter(max_length=32, description="How far back: seconds, or `30s`, `5m`, `24h`, `90d`.")
    ] = "7d",
) -> wire_analytics.Analytics:
    """Compare variants: predictions, errors, latency, cost, cost per correct answer, score."""
    definition = ratchet.traffic.program(program).definition
    back, now = _window(window), ratchet.now()
    sources = {name: metric.sources for name, metric in definition.metrics.items()}
    found = await ratchet.store.read(analytics, program, now - back, now + 1, sources)
    return wire_analytics.analytics(found, window=back, metrics=definition.metrics, goal=definition.goal)


def _window(written: str) -> int:
    try:
        back = duration(float(written) if written.replace(".", "", 1).isdecimal() else written)
    except ValueError as error:
        raise Invalid.at("/query/window", str(error)) from None
    if not back:
        raise Invalid.at("/query/window", "must be above 0")
    return back


HANDLERS = [list_programs, get_program, list_predictions, get_analytics]
