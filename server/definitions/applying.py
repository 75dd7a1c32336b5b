"""Putting definitions in force, all of them or none, and following the file they are written in.

Programs, their variants and their first routing are written in one transaction. A variant is immutable, so an edit of
instructions, module or language model makes a new one, `base-2`, `base-3` and so on, which is off traffic. Only a
changed signature changes what serves: the variants made for the old one cannot answer.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from experiments.assignment import Routing
from experiments.errors import Conflict, Fault, Invalid, RatchetError, Stale
from learning.programs import base_variant
from learning.variants import Variant
from server.definitions.changes import Change, changes
from server.definitions.places import read_file
from server.definitions.reading import Definitions, read
from server.ratchet import Ratchet
from server.store import Connection
from server.store import definitions as store
from server.store.compiles import open_run, request_cancel
from server.store.experiments import experiments_in, interrupt_holdback
from server.store.routings import append_routing, routing_in_force

LOOK_EVERY = 1.0
"""Seconds between two looks at the definitions file."""


class Applied(msgspec.Struct, frozen=True):
    """The version of the definitions now in force, and what putting it in force changed."""

    version: int
    changes: list[Change]


class _Present(msgspec.Struct, frozen=True):
    """What is in force: the version (0: none), the stored programs, and those with a running or paused experiment."""

    version: int
    source: str | None
    programs: dict[str, store.StoredProgram]
    live: frozenset[str]


async def difference(ratchet: Ratchet, text: str, filename: str) -> Applied:
    """What applying `text` would change now; `version` is the one in force. Raises: Invalid listing every error."""
    present = await ratchet.store.read(_present)
    definitions = await asyncio.to_thread(read, text, filename)
    return Applied(present.version, await asyncio.to_thread(_changes, present, definitions))


async def apply(
    ratchet: Ratchet, text: str, filename: str, actor: str | None, *, version: int | None = None
) -> Applied:
    """Put the definitions in `text` in force, and serve by them. The same text again changes nothing.

    `version` is the one the caller saw. Raises: Invalid listing every error; Conflict naming what a running experiment
    forbids; Stale when other definitions were applied, or an experiment began or ended, in the meantime.
    """
    present = await ratchet.store.read(_present)
    if version is not None and version != present.version:
        raise Stale(f"version {present.version} is in force, not {version}; look at the difference again")
    definitions = await asyncio.to_thread(read, text, filename)
    found = await asyncio.to_thread(_changes, present, definitions)
    if refused := [change for change in found if change.refused]:
        faults = [Fault(_pointer(change), change.consequence) for change in refused]
        raise Conflict("; ".join(f"{fault.pointer}: {fault.message}" for fault in faults), faults=faults)
    now = ratchet.now()
    bases = await asyncio.to_thread(_bases, definitions, now)
    applied = await ratchet.store.write(put_in_force, present, definitions, bases, found, now, actor)
    await ratchet.traffic.refresh()
    if applied.version != present.version:
        ratchet.log.info("definitions_applied", version=applied.version, changes=len(found), actor=actor, file=filename)
    return applied


def put_in_force(
    conn: Connection,
    seen: _Present,
    definitions: Definitions,
    bases: Mapping[str, Variant],
    found: list[Change],
    now: int,
    actor: str | None,
) -> Applied:
    """Write what `apply` found out, provided that everything is still as it was `seen`."""
    present = _present(conn)
    if (present.version, present.live) != (seen.version, seen.live):
        raise Stale("other definitions were applied, or an experiment began or ended, in the meantime; try again")
    for name in present.programs.keys() - definitions.programs.keys():
        store.remove_program(conn, name)
        if (compiled := open_run(conn, name)) is not None:
            request_cancel(conn, compiled.compile_id, now)
    for name, definition in definitions.programs.items():
        store.put_program(conn, name, definition, now)
        _serve(conn, _keep(conn, bases[name]), live=name in present.live)
    if present.source == definitions.source:
        return Applied(present.version, found)
    made = store.append_definitions(conn, definitions.source, now, actor, after=present.version)
    return Applied(made.version, found)


def _keep(conn: Connection, base: Variant) -> Variant:
    """The stored variant with this content; new content takes the next free name."""
    if known := store.variant_by_id(conn, base.program, base.id):
        return known
    taken = {variant.name: variant for variant in store.stored_variants(conn, base.program)}
    name = next(name for name in _names(base.name) if name not in taken)
    earlier = [variant.name for variant in taken.values() if variant.origin == "definition"]
    return store.add_variant(conn, msgspec.structs.replace(base, name=name, parent=earlier[-1] if earlier else None))


def _names(first: str) -> Iterator[str]:
    yield first
    number = 2
    while True:
        yield f"{first}-{number}"
        number += 1


def _serve(conn: Connection, variant: Variant, *, live: bool) -> None:
    """Let a program's first variant serve, and one of a new signature: nothing made for the old one could."""
    routing = routing_in_force(conn, variant.program)
    if routing is None:
        epoch, reason = 1, "the program was defined"
    elif store.stored_variant(conn, variant.program, routing.champion).interface != variant.interface:
        epoch, reason = routing.epoch + 1, f"the signature changed: {routing.champion} cannot answer it"
        interrupt_holdback(conn, routing, variant.created_at)
        if live:
            raise Conflict(
                f"program {variant.program!r}: the signature changed while an experiment runs; stop it first"
            )
    else:
        return
    append_routing(
        conn,
        Routing(
            program=variant.program, epoch=epoch, champion=variant.name, reason=reason, created_at=variant.created_at
        ),
    )


def _present(conn: Connection) -> _Present:
    latest = store.latest_definitions(conn)
    return _Present(
        latest.version if latest else 0,
        latest.source if latest else None,
        {program.name: program for program in store.stored_programs(conn)},
        frozenset(experiment.program for experiment in experiments_in(conn, ("running", "paused"))),
    )


def _changes(present: _Present, definitions: Definitions) -> list[Change]:
    in_force = {name: program.definition for name, program in present.programs.items()}
    return changes(in_force, definitions.programs, present.live)


def _bases(definitions: Definitions, now: int) -> dict[str, Variant]:
    return {name: base_variant(name, definition, now) for name, definition in definitions.programs.items()}


def _pointer(change: Change) -> str:
    return "/".join(["", "programs", change.program, *filter(None, change.key.split("."))])


class Watcher:
    """Follows one definitions file: every change is applied, and a bad one leaves the last good definitions in force.

    `errors` holds what is wrong with the file as it is now, one line each; empty when it is in force.
    """

    def __init__(self, ratchet: Ratchet, path: Path) -> None:
        self._ratchet = ratchet
        self._path = path
        self._done: tuple[int, ...] = ()
        self.errors: tuple[str, ...] = ()

    async def follow(self) -> None:
        """Look at the file every second, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                await self.look()
            except Exception:
                self._ratchet.log.exception("definitions_not_followed", file=str(self._path))

    async def look(self) -> None:
        """Apply the file if it changed. What the present state forbids is tried again at each look, till it fits."""
        mark = await asyncio.to_thread(_mark, self._path)
        if mark == self._done:
            return
        try:
            await apply(self._ratchet, await asyncio.to_thread(read_file, self._path), self._path.name, actor="file")
        except RatchetError as error:
            self._refused(error)
            if not isinstance(error, Invalid):
                return
        else:
            self.errors = ()
            self._ratchet.refused.pop(str(self._path), None)
            self._ratchet.metrics.config_good.set(1)
        self._done = mark

    def _refused(self, error: RatchetError) -> None:
        """Say what is wrong, once."""
        errors = tuple(fault.message for fault in error.faults) or (error.detail,)
        self._ratchet.refused[str(self._path)] = "; ".join(errors)
        self._ratchet.metrics.config_good.set(0)
        if errors != self.errors:
            self._ratchet.log.error("definitions_refused", file=str(self._path), errors=errors)
        self.errors = errors


@asynccontextmanager
async def following(ratchet: Ratchet, path: Path) -> AsyncIterator[Watcher]:
    """Applies the file at `path`, and each later change of it until the end of the block.

    Raises: Invalid where the file cannot be put in force and no earlier definitions are.
    """
    watcher = Watcher(ratchet, path)
    await watcher.look()
    if watcher.errors and (await ratchet.store.read(_present)).version == 0:
        raise Invalid("\n".join(watcher.errors), faults=[Fault("", error) for error in watcher.errors])
    task = asyncio.create_task(watcher.follow())
    try:
        yield watcher
    finally:
        task.cancel()
        await asyncio.wait([task])


def _mark(path: Path) -> tuple[int, ...]:
    """Changes whenever the file is written or replaced; empty while there is none."""
    try:
        now = path.stat()
    except OSError:
        return (0,)
    return now.st_mtime_ns, now.st_size, now.st_ino
