"""Idempotency keys: who is working on a request, and what was answered.

A key is reserved with a lease before a language model is called. The answer is stored in the very transaction which
stores the prediction (`Slot.append(..., completion=...)`), so that no crash leaves one without the other. `holder` is
an id made for each attempt: a process whose lease was taken over can neither complete nor release the key any more.
"""

import msgspec
import sqlalchemy as sa

from experiments.quantities import SECOND
from server.store.rows import insert_new
from server.store.tables import idempotency

KEPT = 24 * 3600 * SECOND
"""How long an answer is kept, in µs."""


class Fresh(msgspec.Struct, frozen=True, tag=True):
    """Nobody is working on this key: it is now reserved for this holder."""


class Answered(msgspec.Struct, frozen=True, tag=True):
    """The same request was answered before, with this text."""

    answer: str


class InFlight(msgspec.Struct, frozen=True, tag=True):
    """The same request is being worked on; the lease ends at `lease_until` (µs) if its process died."""

    lease_until: int


class OtherBody(msgspec.Struct, frozen=True, tag=True):
    """The key was used for a different request."""


class Completion(msgspec.Struct, frozen=True):
    """The answer to be stored under a key together with its prediction."""

    program: str
    key: str
    holder: str
    answer: str


def reserve_key(
    conn: sa.Connection, program: str, key: str, *, body_digest: str, holder: str, now: int, lease: int
) -> Fresh | Answered | InFlight | OtherBody:
    """Reserve a key for `lease` µs, unless it is taken. A lease must outlast the request's deadline by far."""
    values = {"body_digest": body_digest, "holder": holder, "lease_until": now + lease, "created_at": now}
    if insert_new(conn, idempotency, program=program, key=key, answer=None, **values):
        return Fresh()
    i = idempotency.c
    old = i.created_at <= now - KEPT
    abandoned = i.answer.is_(None) & (i.lease_until <= now) & (i.body_digest == body_digest)
    here = (i.program == program) & (i.key == key)
    taken = conn.execute(idempotency.update().where(here, old | abandoned).values(answer=None, **values))
    if taken.rowcount:
        return Fresh()
    row = conn.execute(sa.select(idempotency).where(here)).one_or_none()
    if row is None:  # released between the two statements, by another process
        return InFlight(now)
    if row.body_digest != body_digest:
        return OtherBody()
    return InFlight(row.lease_until) if row.answer is None else Answered(row.answer)


def release_key(conn: sa.Connection, program: str, key: str, holder: str) -> None:
    """Give a reserved key back without an answer: the next try is a new one."""
    i = idempotency.c
    conn.execute(idempotency.delete().where(i.program == program, i.key == key, i.holder == holder, i.answer.is_(None)))


def release_all_keys(conn: sa.Connection) -> None:
    """Give back every key without an answer; for a server that is alone here, at its start: who held them is dead."""
    conn.execute(idempotency.delete().where(idempotency.c.answer.is_(None)))


def purge_keys(conn: sa.Connection, now: int) -> int:
    """Forget keys older than a day; returns how many."""
    return conn.execute(idempotency.delete().where(idempotency.c.created_at <= now - KEPT)).rowcount
