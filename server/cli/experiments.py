"""experiments and replay: variants on trial, as an operator sees and steers them."""

import os
from typing import Any

import rich_click as click
import yaml
from rich.console import Console
from rich.text import Text

from server.cli.client import Server
from server.cli.output import Refused, as_json, count, number, show, table
from server.pictures import interval
from server.settings import from_env

_REASON = click.option("--reason", "-m", required=True, metavar="TEXT", help="Why; kept in the record.")
_ID = click.argument("experiment_id", metavar="EXPERIMENT")


@click.group()
def experiments() -> None:
    """Variants on trial: list, show, create, start, pause, resume, stop, promote, rollback."""


@experiments.command("list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@as_json
def list_(limit: int, as_json: bool) -> None:
    """List experiments, newest first."""
    with Server.find() as server:
        items = server.all("/v1/experiments", limit)
    show({"items": items}, as_json=as_json, human=lambda console: _print_list(console, items))


@experiments.command("show")
@_ID
@as_json
def show_(experiment_id: str, as_json: bool) -> None:
    """Show where EXPERIMENT stands: arms, evidence, verdict, and what to do next."""
    with Server.find() as server:
        report = server.get(f"/v1/experiments/{experiment_id}/report")
    show(report, as_json=as_json, human=lambda console: print_report(console, report))


@experiments.command()
@click.argument("program")
@click.argument("challengers", nargs=-1)
@click.option(
    "--split", "-s", multiple=True, metavar="VARIANT=SHARE", help="Shares, champion included; turns the ramp off."
)
@click.option("--goal", metavar="METRIC", help="The metric to be better on; the program's own goal if left out.")
@click.option("--guardrail", "guardrails", multiple=True, metavar="METRIC", help="A metric that must not get worse.")
@click.option(
    "--set", "-o", "options", multiple=True, metavar="KEY=VALUE", help="Any key of `experiments:`, as min_effect=0.05."
)
@click.option("--aa", is_flag=True, help="Try the champion against its own twin; takes no challengers, never promotes.")
@click.option("--start", "begin", is_flag=True, help="Start it at once.")
@as_json
def create(program: str, options: tuple[str, ...], begin: bool, as_json: bool, **written: Any) -> None:
    """Create a draft that weighs CHALLENGERS against PROGRAM's champion; `--start` lets it run."""
    given = {name: value for name, value in written.items() if value}
    if "split" in given:
        given["split"] = dict(map(pair, given["split"]))
    body = {"program": program, "challengers": [], **given, **dict(map(pair, options))}
    with Server.find() as server:
        made = server.post("/v1/experiments", body)
        if begin:
            made = server.post(f"/v1/experiments/{made['experiment_id']}/start", {"reason": "started when created"})
    show(made, as_json=as_json, human=lambda console: _print_act(console, made))


def _act(name: str, meaning: str, *, variant: bool = False) -> None:
    """Add the verb that carries out one act on an experiment."""

    def act(experiment_id: str, reason: str, as_json: bool, variant: str | None = None) -> None:
        body = {"reason": reason} | ({"variant": variant} if variant else {})
        with Server.find() as server:
            done = server.post(f"/v1/experiments/{experiment_id}/{name}", body)
        show(done, as_json=as_json, human=lambda console: _print_act(console, done))

    command = click.command(name, help=meaning)
    if variant:
        act = click.option("--variant", metavar="VARIANT", help="Which challenger, where there are several.")(act)
    experiments.add_command(command(_ID(_REASON(as_json(act)))))


_act("start", "Let a draft run: its split takes effect.")
_act("pause", "Send all traffic to the champion; every assignment is kept.")
_act("resume", "Put a paused experiment's split back in force.")
_act("stop", "End an experiment without a winner.")
_act("promote", "Make a challenger the champion, by hand.", variant=True)
_act("rollback", "Take back a promotion: the former champion serves again.")


@click.command()
@_ID
@as_json
def replay(experiment_id: str, as_json: bool) -> None:
    """Derive every decision of EXPERIMENT again from the raw rows, and compare: exit code 0 when all agree, else 1."""
    import msgspec

    from server.store import read_only
    from server.trials.replay import replay as derive

    with read_only(from_env(os.environ).database_url) as conn:
        result = derive(conn, experiment_id)
    found = msgspec.to_builtins(result)
    show(found, as_json=as_json, human=lambda console: _print_replay(console, found))
    if not result.agrees:
        raise Refused("what is stored and what the rows say differ; keep the database as it is and report this")


def print_report(console: Console, report: dict[str, Any]) -> None:
    """The whole report: what it says, arms, comparisons with their intervals, and whether it can be trusted."""
    console.print(Text(f"{report['program']}  {report['experiment_id']}  ", "bold") + _state(report))
    console.print(
        Text(report["recommended_action"]).append(f" ({report['reason']})" if report["reason"] else "", "dim")
    )
    for name, check in (("split", report["srm"]), ("arrival of outcomes", report["arrival"])):
        if check["violated"]:
            console.print(f"[bold red]The {name} is not as planned: no verdict can be trusted.[/]")
    console.print()
    console.print(_arms(report))
    console.print()
    console.print(_comparisons(report))
    units = report["units_expected"]
    expected = f"units still expected {units['low']} to {units['high']} · " if units else ""
    level = f"level {number(report['level'])} · wealth left {number(report['wealth'])}"
    console.print(f"[dim]{expected}{level} · {report['computed_at']}[/]")
    if held := report["holdback"]:
        told = f"{held['units']} units of the former champion, ln e harm {number(held['log_e_harm'])}"
        console.print(f"[dim]holdback {held['state'].replace('_', ' ')}: {held['share']:.0%} held back, {told}[/]")


def _arms(report: dict[str, Any]) -> Any:
    names = list(dict.fromkeys(name for arm in report["arms"] for name in arm["means"]))
    rows = [
        (
            arm["variant"],
            arm["role"],
            f"{arm['split']:.0%}",
            *(arm[key] for key in ("assigned", "matured", "pending", "missing", "late", "units")),
            *(number((arm["means"].get(name) or {}).get("mean")) for name in names),
        )
        for arm in report["arms"]
    ]
    counts = (">split", ">assigned", ">matured", ">pending", ">missing", ">late", ">units")
    return table("arm", "role", *counts, *(f">{name}" for name in names), rows=rows)


def _comparisons(report: dict[str, Any]) -> Any:
    rows = []
    for found in report["comparisons"]:
        lower, upper = found["interval"]["lower"], found["interval"]["upper"]
        rows.append(
            (
                found["challenger"],
                found["metric"],
                found["role"],
                found["estimate"],
                _drawn(found),
                "-" if lower is None else f"{number(lower)} to {number(upper)}",
                *(found[key] for key in ("log_e_better", "log_e_harm", "log_e_futile", "p_value")),
            )
        )
    evidence = (">ln e better", ">ln e harm", ">ln e futile", ">p")
    return table("challenger", "metric", "role", ">effect", "worse │ better", "interval", *evidence, rows=rows)


def _drawn(found: dict[str, Any]) -> Text:
    """The interval with better on the right, also of a metric of which less is better."""
    lower, estimate, upper = found["interval"]["lower"], found["estimate"], found["interval"]["upper"]
    if found["direction"] == "lower":
        lower, estimate, upper = (None if end is None else -end for end in (upper, estimate, lower))
    reach = max((abs(end) for end in (lower, estimate, upper) if end is not None), default=0.0)
    return interval(lower, estimate, upper, reach)


def _state(report: dict[str, Any]) -> Text:
    colours = {"promote": "green", "rollback": "red", "invalid": "red", "running": "cyan"}
    word = report["verdict"] or report["state"]
    return Text(word + (" (rolled back)" if report["rolled_back"] else ""), colours.get(word, "yellow"))


def _print_list(console: Console, items: list[dict[str, Any]]) -> None:
    if not items:
        console.print("No experiments yet: `ratchet experiments create PROGRAM CHALLENGER --start`.")
        return
    rows = [
        (
            item["experiment_id"],
            item["program"],
            _state(item),
            item["goal"],
            ", ".join(f"{arm['variant']} {arm['split']:.0%}" for arm in item["arms"]),
            item["created_at"],
        )
        for item in items
    ]
    console.print(table("experiment", "program", "state", "goal", "arms", "created", rows=rows))


def _print_act(console: Console, done: dict[str, Any]) -> None:
    console.print(Text(f"{done['program']}  {done['experiment_id']}  ", "bold") + _state(done))
    following = {"draft": "start", "running": "show", "paused": "resume"}.get(done["state"], "show")
    console.print(f"[dim]next: ratchet experiments {following} {done['experiment_id']}[/]")


def _print_replay(console: Console, found: dict[str, Any]) -> None:
    console.print(
        f"{found['experiment_id']}: {count(found['decisions'], 'decision')} over {count(found['blocks'], 'block')} "
        "derived again"
    )
    rows = [(d["tick"], d["place"], d["stored"], d["replayed"]) for d in found["differences"]]
    if rows:
        console.print(table(">decision", "place", "stored", "derived", rows=rows))
    elif found["rounding"]:
        console.print(f"Every one agrees, to {found['rounding']:.0e}: another kind of processor rounds otherwise.")
    else:
        console.print("Every one agrees, digit for digit.")


def pair(written: str) -> tuple[str, Any]:
    """`key=value`, the value read as YAML reads it: 0.05, 24h, [0.1, 0.5]."""
    key, sign, value = written.partition("=")
    if not sign or not key:
        raise click.BadParameter(f"{written!r} is not KEY=VALUE")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise click.BadParameter(f"the value of {key} cannot be read: {value!r}") from None
