"""The whole server's state and its keys, on the wire."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from monitoring.signals import Status as DriftLevel
from server.store.keys import Key
from server.wire.experiments import Reason
from server.wire.scalars import Time, moment, moment_or_none

Scope = Literal["predict", "outcomes", "read", "operate", "admin"]


class Because(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why something is done; it is kept."""

    reason: Reason


class Freeze(msgspec.Struct, frozen=True):
    """Every automatic act is stopped: why, since when and by whom."""

    reason: str
    since: Time
    actor: str | None


class ProgramStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One program at a glance. `problem` says why its present form cannot be loaded: it is served in its last good one.

    Where there was none, it is not served and has no champion. Null when all is well. `learning` says why it is being
    recompiled or is not; null before that was first looked at.
    """

    name: str
    champion: str | None
    experiment_id: str | None
    split: dict[str, float]
    drift: DriftLevel
    learning: str | None
    problem: str | None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole server at a glance.

    `leader` is the process whose jobs run, as host/pid; null when none does, and then nothing happens by itself. `jobs`
    maps each scheduled job to when it last came to its end.
    """

    version: str
    database: str
    now: Time
    open: bool
    frozen: Freeze | None
    programs: list[ProgramStatus]
    leader: str | None
    jobs: dict[str, Time]


class Change(msgspec.Struct, frozen=True):
    """Something that is not as it was: read it again. `id` is a program's name for a program or an alarm."""

    kind: Literal["definitions", "program", "experiment", "evidence", "compile", "alarm"]
    id: str


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be made. The first one must have the scope admin: nobody else could make another."""

    name: Annotated[str, Meta(min_length=1, max_length=100, description="Who or what holds it; named in records.")]
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1, max_length=5)]


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A key, without its secret."""

    key_id: str
    name: str
    scopes: list[str]
    created_at: Time
    revoked_at: Time | None
    last_used_at: Time | None


class MadeKey(msgspec.Struct, frozen=True):
    """A new key. `secret` is shown this once and kept nowhere."""

    key: KeyEntry
    secret: str


class KeyPage(msgspec.Struct, frozen=True):
    """Keys, newest first; `next_cursor` is null on the last page."""

    items: list[KeyEntry]
    next_cursor: str | None


def key(found: Key) -> KeyEntry:
    """A key as it is listed."""
    return KeyEntry(
        key_id=found.key_id,
        name=found.name,
        scopes=list(found.scopes),
        created_at=moment(found.created_at),
        revoked_at=moment_or_none(found.revoked_at),
        last_used_at=moment_or_none(found.last_used_at),
    )
