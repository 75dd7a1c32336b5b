"""The whole server: its state at a glance, and the switch that stops every automatic act."""

from collections.abc import AsyncIterator, Mapping
from importlib.metadata import version as installed
from typing import Any

import msgspec
from litestar import Request, get, post
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from litestar.response import Stream

from experiments.errors import Busy
from monitoring.signals import Status as DriftLevel
from server.auth import actor
from server.bodies import Strict
from server.loop.cycling import outlooks
from server.openapi import operation
from server.ratchet import Ratchet
from server.store.changes import changed, marks
from server.store.drifts import drift_statuses
from server.store.leases import LEADER, holder_of
from server.store.upkeep import last_finished
from server.streams import Message, stream, stream_of
from server.trials import lifecycle
from server.wire import operations as wire
from server.wire.scalars import moment


@get("/v1/status", tags=["operations"], **operation("read"))
async def get_status(ratchet: NamedDependency[Ratchet]) -> wire.Status:
    """The whole server at a glance: what is served, what runs, what is broken, whether automation is frozen."""
    return await _status(ratchet)


@post(
    "/v1/freeze",
    tags=["operations"],
    status_code=200,
    dto=Strict[wire.Because],
    return_dto=None,
    **operation("operate"),
)
async def freeze(
    ratchet: NamedDependency[Ratchet], request: Request[Any, Any, Any], data: JSONBody[wire.Because]
) -> wire.Status:
    """Stop every automatic act: no ramp step, promotion or rollback until `unfreeze`. Serving and evidence go on."""
    await lifecycle.freeze(ratchet, data.reason, actor(request))
    return await _status(ratchet)


@post(
    "/v1/unfreeze",
    tags=["operations"],
    status_code=200,
    dto=Strict[wire.Because],
    return_dto=None,
    **operation("operate"),
)
async def unfreeze(
    ratchet: NamedDependency[Ratchet], request: Request[Any, Any, Any], data: JSONBody[wire.Because]
) -> wire.Status:
    """Let automatic acts happen again, from the next tick on."""
    await lifecycle.unfreeze(ratchet, data.reason, actor(request))
    return await _status(ratchet)


async def _status(ratchet: Ratchet) -> wire.Status:
    finished = await ratchet.store.read(last_finished)
    leader = await ratchet.store.read(holder_of, LEADER)
    drifting = await ratchet.store.read(drift_statuses)
    learning = await ratchet.store.read(outlooks)
    frozen = await lifecycle.freeze_in_force(ratchet)
    return wire.Status(
        version=installed("ratchet-server"),
        database=ratchet.settings.database,
        now=moment(ratchet.now()),
        open=ratchet.keys.empty,
        frozen=wire.Freeze(frozen.reason, moment(frozen.since), frozen.actor) if frozen else None,
        programs=[*_served(ratchet, drifting, learning), *_broken(ratchet)],
        leader=leader.holder if leader else None,
        jobs={job: moment(at) for job, at in finished.items()},
    )


def _served(
    ratchet: Ratchet, drifting: Mapping[str, DriftLevel], learning: Mapping[str, str]
) -> list[wire.ProgramStatus]:
    return [
        wire.ProgramStatus(
            name=program.name,
            champion=program.routing.champion,
            experiment_id=program.routing.running,
            split=program.shares,
            drift=drifting.get(program.name, "warming"),
            learning=learning.get(program.name),
            problem=ratchet.traffic.broken.get(program.name),
        )
        for program in ratchet.traffic.programs
    ]


def _broken(ratchet: Ratchet) -> list[wire.ProgramStatus]:
    """The programs that have no good form to be served in."""
    served = {program.name for program in ratchet.traffic.programs}
    return [
        wire.ProgramStatus(
            name=name, champion=None, experiment_id=None, split={}, drift="warming", learning=None, problem=problem
        )
        for name, problem in ratchet.traffic.broken.items()
        if name not in served
    ]


@get("/v1/events", tags=["operations"], **operation("read", Busy, also={200: stream_of(wire.Change)}))
async def follow_changes(ratchet: NamedDependency[Ratchet], request: Request[Any, Any, Any]) -> Stream:
    """Follow what changes anywhere, as server-sent events that hold no more than its kind and id: read it again.

    The first, called `connected`, says that whatever happens from then on is told; who connects anew reads all anew.
    """
    return stream(_changes(ratchet), request)


async def _changes(ratchet: Ratchet) -> AsyncIterator[Message | None]:
    before = await ratchet.store.read(marks)
    yield Message(event="connected", data=b"{}")
    while True:
        yield None
        after = await ratchet.store.read(marks)
        for kind, name in changed(before, after):
            yield Message(event=kind, data=msgspec.json.encode(wire.Change(kind, name)))
        before = after


HANDLERS: list[HTTPRouteHandler] = [get_status, freeze, unfreeze, follow_changes]
