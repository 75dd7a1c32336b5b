"""Leases: who may act, told by the database's own clock, so that no host's clock can give a lease twice.

A lease carries a *fence*, a token that rises with every change of holder (Kleppmann 2016, *How to do distributed
locking*). A holder that was suspended does not know that its time is over; so whatever it writes carries its token, and
is refused in the very transaction that would have written it.
"""

from typing import Any

import msgspec
import sqlalchemy as sa

from experiments.errors import Stale
from experiments.quantities import SECOND
from server.store.rows import insert_new
from server.store.tables import leases

LEADER = "leader"
"""The lease of the one whose jobs run."""


class Lease(msgspec.Struct, frozen=True):
    """What was taken: `holder` names its process to people, `fence` is the token of its writes."""

    name: str
    holder: str
    fence: int


def database_now(conn: sa.Connection) -> int:
    """Microseconds since the epoch by the database's clock, which all processes share."""
    if conn.dialect.name == "postgresql":
        seconds: Any = sa.func.extract("epoch", sa.func.clock_timestamp())
    else:
        seconds = (sa.func.julianday("now") - 2440587.5) * 86_400.0
    return int(float(conn.scalar(sa.select(seconds)) or 0) * SECOND)


def take_lease(conn: sa.Connection, name: str, holder: str, ttl: int, *, alone: bool = False) -> Lease | None:
    """The lease for `ttl` µs, if nobody holds it; None if somebody does.

    `alone`: no other process can be there, so whoever held it is dead.
    """
    expires_at = database_now(conn) + ttl
    if insert_new(conn, leases, name=name, holder=holder, fence=1, expires_at=expires_at):
        return Lease(name, holder, 1)
    here = leases.c.name == name
    # A holder in the middle of a transaction keeps its row locked: it holds the lease, and nobody waits for it.
    row = conn.execute(sa.select(leases).where(here).with_for_update(skip_locked=True)).one_or_none()
    if row is None or (row.expires_at > database_now(conn) and not alone):
        return None
    conn.execute(leases.update().where(here).values(holder=holder, fence=row.fence + 1, expires_at=expires_at))
    return Lease(name, holder, row.fence + 1)


def renew_lease(conn: sa.Connection, lease: Lease, ttl: int) -> bool:
    """Hold on to a lease for `ttl` µs from now; False when somebody else has taken it since."""
    return bool(conn.execute(leases.update().where(_mine(lease)).values(expires_at=database_now(conn) + ttl)).rowcount)


def release_lease(conn: sa.Connection, lease: Lease) -> None:
    """Let go of a lease, if it is still held: the next one who asks gets it."""
    conn.execute(leases.update().where(_mine(lease)).values(expires_at=0))


def require_held(conn: sa.Connection, lease: Lease) -> None:
    """Keep everybody from taking the lease until the end of this transaction. Raises: Stale when somebody has."""
    # FOR SHARE is a no-op on SQLite, which has one writer anyway.
    if conn.scalar(sa.select(leases.c.fence).where(_mine(lease)).with_for_update(read=True)) is None:
        raise Stale(f"this process does not hold the lease {lease.name!r} any more; another one acts now")


def holder_of(conn: sa.Connection, name: str) -> Lease | None:
    """Who holds a lease now; None when nobody does."""
    row = conn.execute(sa.select(leases).where(leases.c.name == name)).one_or_none()
    return None if row is None or row.expires_at <= database_now(conn) else Lease(row.name, row.holder, row.fence)


def _mine(lease: Lease) -> sa.ColumnElement[bool]:
    t = leases.c
    return (t.name == lease.name) & (t.holder == lease.holder) & (t.fence == lease.fence)
