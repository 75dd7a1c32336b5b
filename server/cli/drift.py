"""drift: what is watched about a program, how near an alarm is, and since when something is wrong."""

import os
from typing import Any

import rich_click as click
from rich.console import Console
from rich.text import Text

from server.cli.client import Server
from server.cli.output import Refused, as_json, number, show, table
from server.pictures import gauge
from server.settings import from_env

COLOURS = {"alarm": "bold red", "building": "yellow", "ok": "green", "warming": "dim"}
_RANKED = ("latency", "latency_tail", "cost", "cost_tail")
"""Signals whose scores are by rank: what an operator reads of them is the evidence."""


@click.command()
@click.argument("program", required=False)
@click.option("--acknowledge", "reason", metavar="REASON", help="Close PROGRAM's alarms: its present level is fine.")
@click.option("--inputs", is_flag=True, help="Show instead whether what PROGRAM is asked has changed.")
@click.option("--replay", is_flag=True, help="Derive PROGRAM's state again from the raw rows, and compare.")
@as_json
def drift(program: str | None, reason: str | None, inputs: bool, replay: bool, as_json: bool) -> None:
    """Show whether PROGRAM is getting worse: evidence on its way to an alarm, score against baseline, since when.

    Without PROGRAM: every one. What is judged are predictions that have had their time for an outcome.
    """
    if program is None and (reason is not None or inputs or replay):
        raise click.UsageError("name the PROGRAM")
    if replay and program is not None:
        _replay(program, as_json=as_json)
        return
    with Server.find() as server:
        if inputs:
            changed = server.get(f"/v1/programs/{program}/drift/inputs")
            show(changed, as_json=as_json, human=lambda console: _print_inputs(console, changed))
            return
        if reason is not None:
            found = [server.post(f"/v1/programs/{program}/drift/acknowledge", {"reason": reason})]
        else:
            names = [program] if program else sorted(each["name"] for each in server.all("/v1/programs", 10_000))
            found = [server.get(f"/v1/programs/{name}/drift") for name in names]
    result = found[0] if program else {"items": found}
    show(result, as_json=as_json, human=lambda console: _print(console, found))


def _replay(program: str, *, as_json: bool) -> None:
    from server.loop.drifting import rederived
    from server.store import read_only
    from server.store.drifts import kept_watch

    with read_only(from_env(os.environ).database_url) as conn:
        kept = kept_watch(conn, program)
        if kept is None:
            raise Refused(f"program {program!r} is not watched yet; the first tick of `ratchet up` or `work` begins it")
        agrees = rederived(conn, program, kept.body) == kept.body
    predictions = sum(hour.made for hour in kept.body.hours)
    show(
        {"program": program, "agrees": agrees, "predictions": predictions},
        as_json=as_json,
        human=lambda console: console.print(
            f"{program}: the state derived again from {predictions} predictions of the last week and those before "
            + ("agrees, digit for digit." if agrees else "differs.")
        ),
    )
    if not agrees:
        raise Refused("what is stored and what the rows say differ; keep the database as it is and report this")


def _print(console: Console, found: list[dict[str, Any]]) -> None:
    if not found:
        console.print("No programs yet: write ratchet.yaml, then `ratchet apply ratchet.yaml`.")
    for place, program in enumerate(found):
        if place:
            console.print()
        _print_program(console, program)


def _print_program(console: Console, found: dict[str, Any]) -> None:
    console.print(Text(f"{found['program']}  ", "bold") + status(found["status"]))
    rows = [_row(signal) for signal in found["signals"] if signal["outcomes"]]
    if not rows and not found["alarms"]:
        console.print(
            "[dim]Nothing was judged yet: predictions are, once they are older than `drift.maturity` "
            "(by default the outcome window).[/]"
        )
        return
    columns = ("evidence │ alarm", ">", ">now", ">baseline", ">held to", ">outcomes", "since")
    console.print(table("variant", "signal", "", *columns, rows=rows))
    promised = f"{found['outcomes_between_false_alarms']:,.0f} outcomes or more between two false alarms"
    console.print(f"[dim]judged until {_moment(found['judged_until'])} · {promised}[/]")
    for alarm in found["alarms"]:
        console.print(_told(alarm), soft_wrap=True)
    if still_open := {alarm["signal"] for alarm in found["alarms"] if alarm["closed_at"] is None}:
        compiled = f"ratchet compile {found['program']}, or " if "score" in still_open else ""
        accepted = f'ratchet drift {found["program"]} --acknowledge "REASON" if this level is fine'
        console.print(Text(f"next: {compiled}{accepted}", "dim"), soft_wrap=True)


def _row(signal: dict[str, Any]) -> tuple[Any, ...]:
    colour = COLOURS[signal["status"]].replace("dim", "cyan")
    scores = [None] * 3 if signal["signal"] in _RANKED else [signal[key] for key in ("score", "baseline", "null_score")]
    return (
        signal["variant"],
        signal["signal"].replace("_", " "),
        status(signal["status"]),
        gauge(signal["evidence_ratio"], 21, style=colour),
        f"{min(signal['evidence_ratio'], 1):.0%}",
        *("-" if score is None else f"{score:.1%}" for score in scores),
        number(signal["outcomes"]),
        _moment(signal["change_point"]),
    )


def _told(alarm: dict[str, Any]) -> Text:
    """One alarm in a sentence; a closed one is dim."""
    fell = ""
    if alarm["signal"] not in _RANKED and alarm["score"] is not None and alarm["baseline"] is not None:
        fell = f", from {alarm['baseline']:.1%} to {alarm['score']:.1%} over the last 500 then"
    about = f"{alarm['variant']}: {alarm['signal'].replace('_', ' ')} changed about {_moment(alarm['change_point'])}"
    if alarm["closed_at"] is None:
        return Text(f"Alarm   {about}{fell}; noticed {_moment(alarm['noticed_at'])}", "red")
    return Text(f"Closed  {about}{fell}; closed {_moment(alarm['closed_at'])} by {alarm['closed_by']}", "dim")


def _print_inputs(console: Console, found: dict[str, Any]) -> None:
    for name, sample in (("first", found["reference"]), ("latest", found["recent"])):
        span = f"{_moment(sample['since'])} to {_moment(sample['until'])}"
        console.print(f"[dim]the {name} {sample['predictions']} inputs: {span}[/]")
    rows = [
        (
            field["field"],
            field["kind"],
            Text("changed", "yellow") if field["drifted"] else field["reason"] or Text("as before", "green"),
            field["effect"],
            field["p_value"],
        )
        for field in found["fields"]
    ]
    console.print(table("field", "kind", "", ">effect", ">p", rows=rows))


def _moment(written: str | None) -> str:
    """A time as people read it, to the second."""
    return "-" if written is None else f"{written[:10]} {written[11:19]}Z"


def status(word: str) -> Text:
    """A status in its colour."""
    return Text(word, COLOURS[word])
