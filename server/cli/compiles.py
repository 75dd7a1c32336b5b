"""compile: recompile a program now, see what that would take, follow it, cancel it."""

import sys
from typing import Any, NoReturn

import rich_click as click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from server.cli.client import Server
from server.cli.output import Refused, as_json, number, show

_OPTIMIZERS = ["auto", "gepa", "mipro", "bootstrap_few_shot"]
_INTERRUPTED = 130
_COLOURS = {"succeeded": "green", "rejected": "yellow", "failed": "red", "cancelled": "yellow"}


@click.command("compile")
@click.argument("program")
@click.option("--follow", "-f", is_flag=True, help="Show how it goes, until it has ended; also of a run under way.")
@click.option("--dry-run", is_flag=True, help="Only say how many calls and dollars it would take.")
@click.option("--cancel", "stop", is_flag=True, help="End the run that is under way.")
@click.option("--optimizer", type=click.Choice(_OPTIMIZERS), help="By default the definition's.")
@click.option("--budget-usd", metavar="DOLLARS", help="What it may spend at most; by default the definition's.")
@as_json
def compile_(
    program: str,
    follow: bool,
    dry_run: bool,
    stop: bool,
    optimizer: str | None,
    budget_usd: str | None,
    as_json: bool,
) -> None:
    """Recompile PROGRAM now, from what was reported about its predictions. A better variant goes on trial by itself."""
    wish = {"optimizer": optimizer, "budget_usd": budget_usd, "dry_run": dry_run or None}
    body = {name: value for name, value in wish.items() if value is not None}
    with Server.find() as server:
        if stop:
            _show_run(_cancelled(server, program), as_json=as_json)
            return
        under_way = _under_way(server, program) if follow and not dry_run else None
        run = under_way or server.post(f"/v1/programs/{program}/compiles", body)
        if dry_run:
            show(run, as_json=as_json, human=lambda console: _print_estimate(console, run))
            return
        if follow:
            run = _followed(server, run, quiet=as_json)
        _show_run(run, as_json=as_json)
    if follow and run["state"] != "succeeded":
        raise Refused(run["error"] or f"the run was {run['state']}")


def _under_way(server: Server, program: str) -> dict[str, Any] | None:
    """The program's run that has not ended."""
    newest = server.get("/v1/compiles", program=program, limit=1)["items"]
    return newest[0] if newest and newest[0]["state"] in ("queued", "running") else None


def _cancelled(server: Server, program: str) -> dict[str, Any]:
    run = _under_way(server, program)
    if run is None:
        raise Refused(f"nothing to cancel: no run of {program} is under way")
    ended: dict[str, Any] = server.post(f"/v1/compiles/{run['compile_id']}/cancel", None)
    return ended


def _followed(server: Server, run: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """The run at its end, having shown everything on standard error on the way; or as it stands after a Ctrl-C."""
    console = Console(stderr=True, highlight=False, quiet=quiet)
    console.print(Text(f"{run['program']}  {run['compile_id']}  {run['optimizer']}", "bold"))
    try:
        with Live(_line(run, run), console=console, refresh_per_second=4, transient=True) as live:
            for name, told in server.events(f"/v1/compiles/{run['compile_id']}/events"):
                if name == "end":
                    ended: dict[str, Any] = told
                    return ended
                if name != "progress":
                    live.console.print(_event(told))
                live.update(_line(run, told))
    except KeyboardInterrupt:
        _left(server, run)
    return run


def _left(server: Server, run: dict[str, Any]) -> NoReturn:
    """Ctrl-C ends the following; whether it ends the run too is asked where there is somebody to answer."""
    path = f"/v1/compiles/{run['compile_id']}"
    asked = sys.stdin.isatty() and sys.stderr.isatty()
    if asked and click.confirm("\nCancel the run? It goes on otherwise", default=False, err=True):
        server.post(f"{path}/cancel", None)
    else:
        click.echo(f"The run goes on. To cancel it: ratchet compile {run['program']} --cancel", err=True)
    sys.exit(_INTERRUPTED)


def _event(told: dict[str, Any]) -> Text:
    colours = {"accepted": "green", "rejected": "dim", "proposed": "cyan", "ended": "bold"}
    line = Text(f"{told['at'][11:19]}  ", "dim").append(f"{told['kind']:<10}", colours.get(told["kind"], ""))
    line.append(told["said"])
    if told["text"]:
        line.append("\n" + "\n".join("          │ " + part for part in told["text"].splitlines()), "dim")
    return line


def _line(run: dict[str, Any], told: dict[str, Any]) -> Text:
    made = told["progress"]
    budget = f" of {run['budget_usd']}" if run["budget_usd"] else ""
    parts = [
        f"iteration {made['iteration']}",
        f"best {number(made['best_score'])}",
        f"{made['metric_calls']} of {made['metric_calls_budget']} metric calls",
        f"${told['spent_usd']}{budget}",
    ]
    return Text("  " + "  ·  ".join(parts), "cyan")


def _show_run(run: dict[str, Any], *, as_json: bool) -> None:
    show(run, as_json=as_json, human=lambda console: _print_run(console, run))


def _print_run(console: Console, run: dict[str, Any]) -> None:
    console.print(
        Text(f"{run['program']}  {run['compile_id']}  ", "bold").append(
            run["state"], _COLOURS.get(run["state"], "cyan")
        )
    )
    console.print(f"{run['optimizer']}, asked for by {run['reason']}; spent ${run['spent_usd']}", markup=False)
    if parts := run["examples"]:
        train, val, holdout = parts["train"], parts["val"], parts["holdout"]
        console.print(f"examples: {train} to learn from, {val} to choose by, {holdout} sealed", markup=False)
    for warning in run["warnings"]:
        console.print(Text(f"  {warning}", "yellow"))
    if gate := run["gate"]:
        scores = f"{number(gate['baseline_score'])} → {number(gate['candidate_score'])}"
        bound = f"gain {number(gate['gain'])}, at least {number(gate['lower'])} at {gate['confidence']:.0%} confidence"
        console.print(f"sealed holdout of {gate['examples']}: {scores} ({bound})")
        for fault in gate["faults"]:
            console.print(Text(f"  {fault}", "yellow"))
    if run["variant"]:
        known = run["experiment_id"]
        trial = f"on trial: ratchet experiments show {known}" if known else "not on trial yet; see ratchet status"
        console.print(f"variant {run['variant']}, {trial}", markup=False)
    if run["error"]:
        console.print(Text(run["error"], "yellow"))
    if run["state"] in ("queued", "running"):
        console.print(f"[dim]next: ratchet compile {run['program']} --follow[/]")


def _print_estimate(console: Console, found: dict[str, Any]) -> None:
    cost = "an unknown amount, for want of a price" if found["cost_usd"] is None else f"about ${found['cost_usd']}"
    reflection = f"{found['reflection_calls']} of the reflection LM"
    console.print(f"{found['student_calls']} calls of the program's LM and {reflection}: {cost}.")
    console.print(f"It needs at least {found['min_metric_calls']} metric calls to find anything. Nothing was started.")
