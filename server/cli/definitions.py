"""check, diff, apply: the definitions file, before and as it takes effect."""

import os
from pathlib import Path
from typing import Any

import rich_click as click
from rich.console import Console
from rich.text import Text

from experiments.errors import Invalid
from server.cli.client import Server
from server.cli.output import Refused, as_json, count, show, table
from server.definitions.places import importable_beside, read_file

_FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
_DEFAULT = "ratchet.yaml"


@click.command()
@_FILE
@click.option("--schema", is_flag=True, help="Print the JSON Schema of definitions, for editors, and check nothing.")
@as_json
def check(file: Path | None, schema: bool, as_json: bool) -> None:
    """Check a definitions FILE (./ratchet.yaml, or RATCHET_CONFIG) and list every error; nothing is changed."""
    from server.definitions.reading import json_schema, read

    if schema:
        show(json_schema(), as_json=True, human=lambda _: None)
        return
    path = _path(file)
    importable_beside(path)
    try:
        names = list(read(read_file(path), str(path)).programs)
    except Invalid as error:
        errors = [{"pointer": fault.pointer, "message": fault.message} for fault in error.faults]
        if as_json:
            show({"valid": False, "errors": errors}, as_json=True, human=lambda _: None)
        raise Refused(f"{count(len(errors), 'error')} in {path}\n" + "\n".join(e["message"] for e in errors)) from None
    show(
        {"valid": True, "programs": names},
        as_json=as_json,
        human=lambda console: console.print(f"{path} is valid: {count(len(names), 'program')} ({', '.join(names)})"),
    )


@click.command()
@_FILE
@as_json
def diff(file: Path | None, as_json: bool) -> None:
    """Show what applying FILE would change on the running server, and what follows from each change."""
    with Server.find() as server:
        found = server.post("/v1/definitions/diff", _body(_path(file)))
    show(found, as_json=as_json, human=lambda console: _print(console, found["changes"], "Nothing would change."))


@click.command()
@_FILE
@as_json
def apply(file: Path | None, as_json: bool) -> None:
    """Put FILE in force on the running server as a whole, or change nothing and say why."""
    with Server.find() as server:
        applied = server.put("/v1/definitions", _body(_path(file)))
    nothing = f"Nothing changed; version {applied['version']} is in force."
    show(applied, as_json=as_json, human=lambda console: _print(console, applied["changes"], nothing))


def _path(file: Path | None) -> Path:
    return file or Path(os.environ.get("RATCHET_CONFIG") or _DEFAULT)


def _body(path: Path) -> dict[str, str]:
    return {"source": read_file(path), "filename": path.name}


def _print(console: Console, changes: list[dict[str, Any]], nothing: str) -> None:
    if not changes:
        console.print(nothing)
        return
    marks = {"added": Text("+", "green"), "removed": Text("-", "red"), "changed": Text("~", "yellow")}
    rows = [
        (
            marks[change["kind"]],
            ".".join(filter(None, (change["program"], change["key"]))),
            _edit(change),
            Text(change["consequence"], "red" if change["refused"] else ""),
        )
        for change in changes
    ]
    console.print(table("", "what", "from → to", "consequence", rows=rows))


def _edit(change: dict[str, Any]) -> str:
    if not change["key"]:
        return ""
    sides = ["" if change[side] is None else str(change[side]) for side in ("old", "new")]
    return " → ".join(side if len(side) <= 60 else side[:57] + "..." for side in sides)
