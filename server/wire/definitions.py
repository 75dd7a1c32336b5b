"""Definitions of programs on the wire: the file in force, a new one, and what telling them apart says."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from server.wire.scalars import Time


class DefinitionsFile(msgspec.Struct, frozen=True, kw_only=True):
    """The definitions in force, word for word as they were applied. Version 0: none were yet."""

    version: int
    source: str
    applied_at: Time | None
    actor: str | None


class NewDefinitions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole definitions file as YAML; `filename` is what errors call it."""

    source: Annotated[str, Meta(max_length=300_000)]
    filename: Annotated[str, Meta(min_length=1, max_length=256)] = "ratchet.yaml"


class DefinitionsChange(msgspec.Struct, frozen=True, kw_only=True):
    """One difference, and what follows from it. `key` is empty for a whole program; `refused`: not possible now."""

    program: str
    kind: Literal["added", "removed", "changed"]
    key: str
    old: Any
    new: Any
    consequence: str
    refused: bool


class DefinitionsChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What new definitions change (or changed), and the version in force."""

    version: int
    changes: list[DefinitionsChange]
