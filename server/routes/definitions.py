"""The definitions in force, and new ones: compared, or applied as a whole."""

from typing import Any

import msgspec
from litestar import Request, Response, get, post, put
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from experiments.errors import Conflict, Stale
from server.auth import actor
from server.bodies import Strict
from server.definitions import applying
from server.definitions.applying import Applied
from server.openapi import operation
from server.parameters import ETAG, IfMatch, tagged, version, version_tag
from server.ratchet import Ratchet
from server.store.definitions import latest_definitions
from server.wire.definitions import DefinitionsChange, DefinitionsChanges, DefinitionsFile, NewDefinitions
from server.wire.scalars import moment


@get("/v1/definitions", tags=["programs"], response_headers=[ETAG], **operation("read"))
async def read_definitions(ratchet: NamedDependency[Ratchet]) -> Response[DefinitionsFile]:
    """The definitions in force."""
    latest = await ratchet.store.read(latest_definitions)
    if latest is None:
        answer = DefinitionsFile(version=0, source="", applied_at=None, actor=None)
    else:
        answer = DefinitionsFile(
            version=latest.version, source=latest.source, applied_at=moment(latest.applied_at), actor=latest.actor
        )
    return tagged(answer, version_tag(answer.version))


@post(
    "/v1/definitions/diff",
    tags=["programs"],
    status_code=200,
    dto=Strict[NewDefinitions],
    return_dto=None,
    **operation("admin"),
)
async def compare_definitions(data: JSONBody[NewDefinitions], ratchet: NamedDependency[Ratchet]) -> DefinitionsChanges:
    """What applying these definitions would change, key by key, with the consequence of each. Nothing is changed.

    It takes the scope `admin` like applying them: the modules that definitions name are imported to be checked.
    """
    return _changes(await applying.difference(ratchet, data.source, data.filename))


@put(
    "/v1/definitions",
    tags=["programs"],
    response_headers=[ETAG],
    dto=Strict[NewDefinitions],
    return_dto=None,
    **operation("admin", Conflict, Stale),
)
async def apply_definitions(
    data: JSONBody[NewDefinitions],
    ratchet: NamedDependency[Ratchet],
    request: Request[Any, Any, Any],
    if_match: IfMatch = None,
) -> Response[DefinitionsChanges]:
    """Put these definitions in force as a whole, or say everything that is wrong with them and change nothing."""
    applied = await applying.apply(ratchet, data.source, data.filename, actor(request), version=version(if_match))
    return tagged(_changes(applied), version_tag(applied.version))


def _changes(applied: Applied) -> DefinitionsChanges:
    listed = [DefinitionsChange(**msgspec.structs.asdict(change)) for change in applied.changes]
    return DefinitionsChanges(version=applied.version, changes=listed)


HANDLERS: list[HTTPRouteHandler] = [read_definitions, compare_definitions, apply_definitions]
