"""Drift: what the detectors say of a program, and an operator's word that an alarm is known."""

import asyncio
from typing import Any

from litestar import Request, get, post
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from experiments.errors import Conflict, NotFound
from monitoring.inputs import findings
from server.auth import actor
from server.bodies import Strict
from server.loop.situations import lasting_alarm
from server.openapi import operation
from server.parameters import PathName
from server.ratchet import Ratchet
from server.store import Connection
from server.store.definitions import stored_program
from server.store.drifts import (
    AlarmRaised,
    KeptWatch,
    Sample,
    alarms_of,
    input_samples,
    kept_watch,
    live_with,
    open_alarms,
)
from server.store.routings import routing_in_force
from server.wire import drift as wire
from server.wire.operations import Because

SAMPLE = 1_000
"""Inputs in either sample: enough for the smallest effect that counts, and done in a second."""


@get("/v1/programs/{program:str}/drift", tags=["programs"], **operation("read", NotFound))
async def get_drift(ratchet: NamedDependency[Ratchet], program: PathName) -> wire.Drift:
    """What is watched about a program: evidence against its baseline, signal by signal, and the alarms there were."""
    return wire.drift(program, *await ratchet.store.read(_watch, program))


@get("/v1/programs/{program:str}/drift/inputs", tags=["programs"], **operation("read", NotFound))
async def get_input_drift(ratchet: NamedDependency[Ratchet], program: PathName) -> wire.InputDrift:
    """Whether what is asked has changed since this champion took over: the first inputs against the latest.

    For information: answers may stay right however the inputs change, and no recompile follows from it.
    """
    reference, recent = await ratchet.store.read(_inputs, program)
    found = await asyncio.to_thread(findings, reference.inputs, recent.inputs, seed=1)
    return wire.inputs(program, reference, recent, found)


@post(
    "/v1/programs/{program:str}/drift/acknowledge",
    tags=["programs"],
    status_code=200,
    dto=Strict[Because],
    return_dto=None,
    **operation("operate", NotFound, Conflict),
)
async def acknowledge(
    ratchet: NamedDependency[Ratchet], request: Request[Any, Any, Any], program: PathName, data: JSONBody[Because]
) -> wire.Drift:
    """Close the open alarms and live with what they are about: from the next tick on, the present level is held to.

    No recompile follows from them any more; nor from one that recompiles have not mended, while its fall lasts.
    """
    by = f"{actor(request) or 'an operator'}: {data.reason}"
    await ratchet.store.write(_close, program, by, ratchet.now())
    ratchet.log.info("drift_acknowledged", program=program, by=by)
    return wire.drift(program, *await ratchet.store.read(_watch, program))


def _watch(conn: Connection, program: str) -> tuple[KeptWatch | None, list[AlarmRaised]]:
    stored_program(conn, program)
    return kept_watch(conn, program), alarms_of(conn, program)


def _inputs(conn: Connection, program: str) -> tuple[Sample, Sample]:
    stored_program(conn, program)
    kept = kept_watch(conn, program)
    return input_samples(conn, program, kept.body.since if kept else 0, SAMPLE)


def _close(conn: Connection, program: str, by: str, now: int) -> None:
    stored_program(conn, program)
    routing = routing_in_force(conn, program)
    lasting = lasting_alarm(conn, program, routing.champion) if routing else None
    known = [*open_alarms(conn, program), *([lasting] if lasting else [])]
    if not known:
        raise Conflict(f"program {program!r} has no open alarm and no lasting fall: there is nothing to acknowledge")
    for alarm in known:
        live_with(conn, alarm, now, by)


HANDLERS: list[HTTPRouteHandler] = [get_drift, get_input_drift, acknowledge]
