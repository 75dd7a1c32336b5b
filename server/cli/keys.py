"""keys: who may call a server that listens beyond its own machine."""

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import rich_click as click
from rich.console import Console

from server.cli.client import Server
from server.cli.output import as_json, show, table
from server.presence import present
from server.settings import Settings, from_env

_SCOPES = ("predict", "outcomes", "read", "operate", "admin")


@click.group()
def keys() -> None:
    """API keys: create, list, revoke. Without any, everything is allowed on this machine and nothing beyond it."""


@keys.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, required=True, type=click.Choice(_SCOPES), help="May be given again.")
@as_json
def create(name: str, scopes: tuple[str, ...], as_json: bool) -> None:
    """Make a key for NAME and show it, this once. The first key, with the scope admin, needs no running server."""
    settings = from_env(os.environ)
    if os.environ.get("RATCHET_URL") or present(Path(settings.data)):
        with Server.find() as server:
            made = server.post("/v1/keys", {"name": name, "scopes": scopes})
    else:
        made = asyncio.run(_create_alone(settings, name, scopes))
    show(made, as_json=as_json, human=lambda console: _print_made(console, made))


@keys.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List every key, the revoked ones included; never a secret."""
    with Server.find() as server:
        items = server.all("/v1/keys", limit=10_000)
    show({"items": items}, as_json=as_json, human=lambda console: _print_list(console, items))


@keys.command()
@click.argument("key_id", metavar="KEY_ID")
@as_json
def revoke(key_id: str, as_json: bool) -> None:
    """Revoke a key for ever; it stops working everywhere within a second."""
    with Server.find() as server:
        revoked = server.post(f"/v1/keys/{key_id}/revoke", None)
    show(
        revoked,
        as_json=as_json,
        human=lambda console: console.print(f"Key {revoked['name']} is revoked.", markup=False),
    )


async def _create_alone(settings: Settings, name: str, scopes: tuple[str, ...]) -> Any:
    """Make a key while no server runs on this machine, by opening its database."""
    from server.app import opened
    from server.keys import create as create_key
    from server.wire.operations import MadeKey, NewKey, key

    wanted = msgspec.convert({"name": name, "scopes": scopes}, NewKey)
    embedded = settings.sqlite_path is not None
    async with opened(msgspec.structs.replace(settings, embedded=embedded, log_level="error")) as ratchet:
        made, secret = await create_key(ratchet, wanted.name, wanted.scopes)
    return msgspec.to_builtins(MadeKey(key(made), secret))


def _print_made(console: Console, made: dict[str, Any]) -> None:
    console.print(made["secret"], markup=False, soft_wrap=True)
    entry = made["key"]
    told = f"Shown this once. Key {entry['key_id']} for {entry['name']}: {', '.join(entry['scopes'])}."
    console.print(told, style="dim", markup=False)
    console.print("[dim]For this command: export RATCHET_API_KEY=...; for requests: Authorization: Bearer ...[/]")


def _print_list(console: Console, items: list[dict[str, Any]]) -> None:
    if not items:
        console.print(
            "No keys: everything is allowed, on this machine only. Make one: ratchet keys create NAME --scope admin"
        )
        return
    rows = [
        (
            key["key_id"],
            key["name"],
            ", ".join(key["scopes"]),
            key["created_at"],
            key["last_used_at"],
            key["revoked_at"],
        )
        for key in items
    ]
    console.print(table("key", "name", "scopes", "created", "last used", "revoked", rows=rows))
