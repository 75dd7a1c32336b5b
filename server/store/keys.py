"""API keys: only a digest of each is kept."""

from collections.abc import Mapping

import msgspec
import sqlalchemy as sa

from experiments.errors import NotFound
from server.store.rows import Page, decode, encode, page_of
from server.store.tables import keys


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One API key, without its secret. Times in µs."""

    key_id: str
    name: str
    scopes: tuple[str, ...]
    created_at: int
    revoked_at: int | None = None
    last_used_at: int | None = None


def add_key(conn: sa.Connection, key: Key, digest: str) -> None:
    """Keep a new key with the digest of its secret."""
    values = {**msgspec.structs.asdict(key), "scopes": encode(key.scopes), "digest": digest}
    conn.execute(keys.insert().values(values))


def keys_page(conn: sa.Connection, *, limit: int = 50, cursor: str | None = None) -> Page[Key]:
    """Keys, newest first, the revoked ones included. Raises: Invalid at /limit or /cursor."""
    rows, following = page_of(conn, sa.select(keys), keys.c.created_at, keys.c.key_id, limit, cursor)
    return Page([_key(row) for row in rows], following)


def stored_key(conn: sa.Connection, key_id: str) -> Key:
    """Raises: NotFound."""
    row = conn.execute(sa.select(keys).where(keys.c.key_id == key_id)).one_or_none()
    if row is None:
        raise NotFound(f"no key has the id {key_id!r}")
    return _key(row)


def valid_keys(conn: sa.Connection) -> dict[str, Key]:
    """The keys not revoked, by digest: what a server holds in memory and reads anew now and then."""
    return {row.digest: _key(row) for row in conn.execute(sa.select(keys).where(keys.c.revoked_at.is_(None)))}


def revoke_key(conn: sa.Connection, key_id: str, at: int) -> None:
    """Revoke a key for ever; again changes nothing. Raises: NotFound."""
    revoked = sa.func.coalesce(keys.c.revoked_at, at)
    if not conn.execute(keys.update().where(keys.c.key_id == key_id).values(revoked_at=revoked)).rowcount:
        raise NotFound(f"no key has the id {key_id!r}")


def touch_keys(conn: sa.Connection, used: Mapping[str, int]) -> None:
    """Write down when keys were last used (id to µs); to be called now and then, not for each request."""
    for key_id, at in used.items():
        earlier = keys.c.last_used_at.is_(None) | (keys.c.last_used_at < at)
        conn.execute(keys.update().where(keys.c.key_id == key_id, earlier).values(last_used_at=at))


def _key(row: "sa.Row[tuple[object, ...]]") -> Key:
    return Key(
        key_id=row.key_id,
        name=row.name,
        scopes=decode(row.scopes, tuple[str, ...]),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
