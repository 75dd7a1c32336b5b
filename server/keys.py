"""API keys, made and revoked. One with the scope admin always remains, once there is any."""

from experiments.errors import Conflict, Invalid
from server.auth import digest, new_secret
from server.clock import new_id
from server.ratchet import Ratchet
from server.store import Connection
from server.store.keys import Key, add_key, revoke_key, stored_key, valid_keys
from server.wire.operations import Scope


async def create(ratchet: Ratchet, name: str, scopes: tuple[Scope, ...]) -> tuple[Key, str]:
    """A new key and its secret, which is kept nowhere. Raises: Invalid at /scopes for a first key without admin."""
    secret = new_secret()
    made = Key(key_id=new_id(), name=name, scopes=tuple(dict.fromkeys(scopes)), created_at=ratchet.now())
    await ratchet.store.write(_add, made, digest(secret))
    await ratchet.keys.refresh()
    ratchet.log.info("key_created", key_id=made.key_id, name=made.name, scopes=made.scopes)
    return made, secret


async def revoke(ratchet: Ratchet, key_id: str) -> Key:
    """The key, never valid again. Raises: NotFound; Conflict for the last one with the scope admin."""
    revoked = await ratchet.store.write(_revoke, key_id, ratchet.now())
    await ratchet.keys.refresh()
    ratchet.log.info("key_revoked", key_id=key_id, name=revoked.name)
    return revoked


def _add(conn: Connection, key: Key, hashed: str) -> None:
    if "admin" not in key.scopes and not valid_keys(conn):
        raise Invalid.at("/scopes", "the first key must have the scope admin: nobody could make another without it")
    add_key(conn, key, hashed)


def _revoke(conn: Connection, key_id: str, at: int) -> Key:
    revoke_key(conn, key_id, at)
    if not any("admin" in key.scopes for key in valid_keys(conn).values()):
        raise Conflict("this is the last key with the scope admin; make another one first")
    return stored_key(conn, key_id)
