"""status, freeze, unfreeze: what is going on, and the one switch that stops every automatic act."""

from typing import Any

import rich_click as click
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from server.cli import figures
from server.cli.client import Server
from server.cli.drift import status as level
from server.cli.output import as_json, show, table

_REASON = click.option("--reason", "-m", required=True, metavar="TEXT", help="Why; kept in the record.")


@click.command()
@click.option("--window", default="24h", show_default=True, metavar="TIME", help="How far back figures go: 1h, 7d.")
@as_json
def status(window: str, as_json: bool) -> None:
    """Show the running server: programs, champions, experiments under way, and what every variant did of late."""
    with Server.find() as server:
        found = {"url": server.url, **server.get("/v1/status")}
        found["figures"] = figures.read(server, found["programs"], window)
    show(found, as_json=as_json, human=lambda console: _print(console, found, window))


@click.command()
@_REASON
@as_json
def freeze(reason: str, as_json: bool) -> None:
    """Stop every automatic act (ramp steps, promotions, rollbacks, recompiles) until `ratchet unfreeze`.

    Evidence still gathers, and predictions are answered as before.
    """
    with Server.find() as server:
        answer = server.post("/v1/freeze", {"reason": reason})
    show(
        answer,
        as_json=as_json,
        human=lambda console: console.print("Frozen: nothing acts by itself until `ratchet unfreeze`."),
    )


@click.command()
@_REASON
@as_json
def unfreeze(reason: str, as_json: bool) -> None:
    """Let automatic acts happen again, from the next tick on."""
    with Server.find() as server:
        answer = server.post("/v1/unfreeze", {"reason": reason})
    show(
        answer,
        as_json=as_json,
        human=lambda console: console.print("Automatic acts happen again, from the next tick on."),
    )


def _print(console: Console, found: dict[str, Any], window: str) -> None:
    console.print(f"[bold]{found['url']}[/]  Ratchet {found['version']}  [dim]{found['database']}[/]")
    if found["open"]:
        console.print("[dim]No API key is defined: everything is allowed, on this machine only.[/]")
    if frozen := found["frozen"]:
        console.print(Text(f"Frozen since {frozen['since']}: {frozen['reason']}", "bold yellow"))
    if found["leader"] is None:
        console.print("[bold yellow]No process leads: nothing is decided or watched until `ratchet work` runs.[/]")
    if not found["programs"]:
        console.print("No programs yet: write ratchet.yaml, then `ratchet apply ratchet.yaml`.")
        return
    rows = [
        (
            program["name"],
            program["champion"],
            ", ".join(f"{variant} {share:.0%}" for variant, share in program["split"].items()),
            program["experiment_id"],
            level(program["drift"]),
            Text(program["problem"] or "", "red"),
        )
        for program in found["programs"]
    ]
    console.print(table("program", "champion", "traffic", "experiment", "drift", "", rows=rows))
    console.print(figures.shown(found["figures"], window))
    for program in found["programs"]:
        if program["learning"]:
            console.print(Text(f"{program['name']}: {program['learning']}", "dim"))
    if found["leader"] and found["jobs"]:
        done = " · ".join(f"{job} {at[11:19]}" for job, at in sorted(found["jobs"].items()))
        console.print(f"[dim]leader {escape(found['leader'])} · last done: {done}[/]")
