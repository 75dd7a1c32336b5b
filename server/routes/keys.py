"""API keys: made, listed, revoked."""

from litestar import get, post
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from experiments.errors import Conflict, NotFound, TooLarge
from server import keys
from server.bodies import Strict
from server.openapi import operation
from server.parameters import Cursor, Limit, PathName
from server.ratchet import Ratchet
from server.store.keys import keys_page
from server.wire import operations as wire


@get("/v1/keys", tags=["operations"], **operation("admin"))
async def list_keys(ratchet: NamedDependency[Ratchet], limit: Limit = 50, cursor: Cursor = None) -> wire.KeyPage:
    """Every key, the revoked ones included; never a secret."""
    page = await ratchet.store.read(keys_page, limit=limit, cursor=cursor)
    return wire.KeyPage([wire.key(found) for found in page.items], page.next_cursor)


@post("/v1/keys", tags=["operations"], dto=Strict[wire.NewKey], return_dto=None, **operation("admin", TooLarge))
async def create_key(ratchet: NamedDependency[Ratchet], data: JSONBody[wire.NewKey]) -> wire.MadeKey:
    """Make a key and show its secret, this once. From the first key on, every request needs one."""
    made, secret = await keys.create(ratchet, data.name, data.scopes)
    return wire.MadeKey(wire.key(made), secret)


@post("/v1/keys/{key_id:str}/revoke", tags=["operations"], status_code=200, **operation("admin", NotFound, Conflict))
async def revoke_key(ratchet: NamedDependency[Ratchet], key_id: PathName) -> wire.KeyEntry:
    """Revoke a key for ever, everywhere within a second. The last one with the scope admin stays."""
    return wire.key(await keys.revoke(ratchet, key_id))


HANDLERS: list[HTTPRouteHandler] = [list_keys, create_key, revoke_key]
