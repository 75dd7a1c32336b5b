"""The whole server: its state at a glance, and the switch that stops every automatic act."""

from importlib.metadata import version as installed
from typing import Any

from litestar import Request, get, post
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from server.auth import actor
from server.bodies import Strict
from server.openapi import operation
from server.ratchet import Ratchet
from server.store.upkeep import last_finished
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
    frozen = await lifecycle.freeze_in_force(ratchet)
    return wire.Status(
        version=installed("ratchet-server"),
        database=ratchet.settings.database,
        now=moment(ratchet.now()),
        open=ratchet.keys.empty,
        frozen=wire.Freeze(frozen.reason, moment(frozen.since), frozen.actor) if frozen else None,
        programs=[*_served(ratchet), *_broken(ratchet)],
        jobs={job: moment(at) for job, at in finished.items()},
    )


def _served(ratchet: Ratchet) -> list[wire.ProgramStatus]:
    return [
        wire.ProgramStatus(
            name=program.name,
            champion=program.routing.champion,
            experiment_id=program.routing.running,
            split=program.shares,
            problem=ratchet.traffic.broken.get(program.name),
        )
        for program in ratchet.traffic.programs
    ]


def _broken(ratchet: Ratchet) -> list[wire.ProgramStatus]:
    """The programs that have no good form to be served in."""
    served = {program.name for program in ratchet.traffic.programs}
    return [
        wire.ProgramStatus(name=name, champion=None, experiment_id=None, split={}, problem=problem)
        for name, problem in ratchet.traffic.broken.items()
        if name not in served
    ]


HANDLERS: list[HTTPRouteHandler] = [get_status, freeze, unfreeze]
