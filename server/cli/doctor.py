"""doctor: everything that could keep this machine from serving, each with its cure."""

import os
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import rich_click as click
from rich.console import Console
from rich.text import Text

from experiments.errors import Conflict, Invalid, RatchetError
from server import presence
from server.cli.client import Server
from server.cli.output import Refused, as_json, show, table
from server.definitions.places import importable_beside, read_file
from server.settings import Settings, from_env, unknown

_OLDEST_PYTHON = (3, 11)
_LEAST_FREE = 100 * 2**20
_ENOUGH_FREE = 2**30
_APART = 5.0
"""Seconds by which this machine's clock and the server's may differ."""
_RELEASED = datetime(2026, 11, 1, tzinfo=UTC)
"""A clock before this is wrong."""


class Check(msgspec.Struct, frozen=True):
    """One thing looked at: whether it is well, what was found, and what to do about it."""

    name: str
    status: Literal["ok", "warning", "failed"]
    found: str
    cure: str | None = None


@click.command()
@as_json
def doctor(as_json: bool) -> None:
    """Look at everything that could keep this machine from serving, and say how to cure it."""
    checks = list(_checks())
    failed = [check.name for check in checks if check.status == "failed"]
    result = {"healthy": not failed, "checks": checks}
    show(result, as_json=as_json, human=lambda console: _print(console, checks))
    if failed:
        raise Refused(f"{', '.join(failed)}: see the cure beside each")


def _checks() -> Iterator[Check]:
    found = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= _OLDEST_PYTHON
    yield Check("python", "ok" if good else "failed", found, None if good else "use Python 3.11 or later")
    try:
        settings = from_env(os.environ)
    except Invalid as error:
        yield Check("settings", "failed", error.detail, "correct or unset these environment variables")
        return
    strange = unknown(os.environ)
    yield Check("settings", "warning" if strange else "ok", "; ".join(strange) or "as the environment says")
    server = presence.present(Path(settings.data))
    yield _disk(Path(settings.data))
    yield from _database(settings)
    yield from _definitions(settings)
    yield _clock(server)
    yield _port(settings, server)
    yield _holder(settings, server)
    yield from _leader(settings, server)


def _disk(data: Path) -> Check:
    here = next(path for path in (data.absolute(), *data.absolute().parents) if path.exists())
    if not os.access(here, os.W_OK | os.X_OK):
        return Check("disk", "failed", f"{here} cannot be written to", "give RATCHET_DATA another directory")
    free = shutil.disk_usage(here).free
    status: Literal["ok", "warning", "failed"] = (
        "ok" if free >= _ENOUGH_FREE else "warning" if free >= _LEAST_FREE else "failed"
    )
    cure = None if status == "ok" else "free some space, or give RATCHET_DATA a directory on another disk"
    return Check("disk", status, f"{here}: {free / 2**30:.1f} GiB free", cure)


def _database(settings: Settings) -> Iterator[Check]:
    from server.store import read_only
    from server.store.engine import Database
    from server.store.schema import schema_state

    database = Database(settings.database_url)
    database.close()
    if database.sqlite:
        cure = "; ".join(database.warnings) or None
        library = database.writer.dialect.loaded_dbapi
        found = f"SQLite {library.sqlite_version}, by {library.__name__}"
        yield Check("sqlite", "warning" if cure else "ok", found, cure)
    if database.path and not database.path.exists():
        yield Check("database", "ok", f"none yet at {database.path}; `ratchet up` makes one")
        return
    try:
        with read_only(settings.database_url) as conn:
            state = schema_state(conn)
    except RatchetError as error:
        yield Check(
            "database", "failed", f"{settings.database}: {error.detail}", "start it, or correct RATCHET_DATABASE_URL"
        )
        return
    cures = {"newer": "run the newer version of Ratchet that made it", "current": None}
    cure = cures.get(state, "run `ratchet migrate`")
    yield Check("database", "failed" if cure else "ok", f"{settings.database}: its tables are {state}", cure)


def _definitions(settings: Settings) -> Iterator[Check]:
    """The file that is named, and the language models of the programs in force."""
    from learning.lms import check_lm
    from server.definitions.reading import read
    from server.store import read_only
    from server.store.definitions import stored_programs

    if settings.config is not None:
        importable_beside(Path(settings.config))
        try:
            programs = read(read_file(Path(settings.config)), settings.config).programs
            yield Check("definitions", "ok", f"{settings.config}: {', '.join(programs) or 'no program'}")
        except Invalid as error:
            yield Check(
                "definitions", "failed", error.detail, "correct the file; `ratchet check` lists the errors again"
            )
    try:
        with read_only(settings.database_url) as conn:
            stored = stored_programs(conn)
    except RatchetError:
        return  # told above, with the database
    for program in stored:
        lm = program.definition.lm_settings
        try:
            check_lm(lm)
            yield Check(f"lm of {program.name}", "ok", lm.model)
        except Invalid as error:
            yield Check(
                f"lm of {program.name}", "failed", lm.model, error.faults[0].message if error.faults else error.detail
            )


def _clock(server: presence.Presence | None) -> Check:
    now = datetime.now(UTC)
    cure = "set the clock of this machine, or let NTP do it"
    if now < _RELEASED:
        return Check("clock", "failed", f"it says {now:%Y-%m-%d %H:%M}", cure)
    if server is not None:
        try:
            with Server(server.url, os.environ.get("RATCHET_API_KEY")) as asked:
                theirs = datetime.fromisoformat(asked.get("/v1/status")["now"])
        except Refused:
            return Check("clock", "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC")
        apart = abs((datetime.now(UTC) - theirs).total_seconds())
        if apart > _APART:
            return Check("clock", "warning", f"{apart:.0f} s apart from the server's", cure)
    return Check("clock", "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC")


def _port(settings: Settings, server: presence.Presence | None) -> Check:
    from server.cli.running import bind

    if server is not None:
        return Check("port", "ok", f"served by process {server.pid} at {server.url}")
    try:
        bind(settings.host, settings.port, Path(settings.data)).close()
    except (Refused, Invalid) as error:
        return Check("port", "failed", f"{settings.host}:{settings.port}", str(error))
    return Check("port", "ok", f"{settings.host}:{settings.port} is free")


def _holder(settings: Settings, server: presence.Presence | None) -> Check:
    """Whether somebody else holds the SQLite file, other than the server that said so."""
    from server.store.engine import Database
    from server.store.store import take_lock

    path = settings.sqlite_path
    if path is None or not path.exists():
        return Check("holder", "ok", "nobody holds the data")
    try:
        lock = take_lock(Database(settings.database_url))
    except Conflict as error:
        if server is not None:
            return Check("holder", "ok", f"held by the server, process {server.pid}")
        return Check("holder", "warning", error.detail, "stop that process before `ratchet up`")
    if lock is not None:
        lock.release()
    return Check("holder", "ok", "nobody holds the data")


def _leader(settings: Settings, server: presence.Presence | None) -> Iterator[Check]:
    """Whether anything happens by itself, where something ought to: beside a server."""
    from server.store import read_only
    from server.store.leases import LEADER, holder_of

    if settings.sqlite_path is not None and server is None:
        return
    try:
        with read_only(settings.database_url) as conn:
            leader = holder_of(conn, LEADER)
    except RatchetError:  # which was told already
        return
    if leader is not None:
        yield Check("leader", "ok", f"{leader.holder} decides, watches for drift and asks for recompiles")
    else:
        yield Check("leader", "warning", "nobody decides, watches for drift or recompiles", "run `ratchet work`")


def _print(console: Console, checks: list[Check]) -> None:
    marks: dict[str, Text] = {"ok": Text("✓", "green"), "warning": Text("!", "yellow"), "failed": Text("✗", "red")}
    rows: list[Any] = [(marks[check.status], check.name, check.found, check.cure or "") for check in checks]
    console.print(table("", "", "found", "what to do", rows=rows))
