"""simulate: what a planned experiment is likely to take, before it is created."""

from typing import Any

import rich_click as click
from rich.console import Console
from rich.text import Text

from server.cli.client import Server
from server.cli.experiments import pair
from server.cli.output import as_json, number, show, table


@click.command()
@click.argument("program")
@click.argument("challengers", nargs=-1)
@click.option(
    "--units-per-day", "-u", type=float, required=True, help="New units (or requests) the program sees a day."
)
@click.option(
    "--baseline", "-b", multiple=True, metavar="METRIC=MEAN", help="The champion's mean; its own outcomes if left out."
)
@click.option("--agreement", type=float, metavar="SHARE", help="By pairs: how often both answers score alike.")
@click.option("--explained", type=float, metavar="SHARE", help="What covariates explain of the goal's variance.")
@click.option("--split", "-s", multiple=True, metavar="VARIANT=SHARE", help="Shares, champion included; no ramp then.")
@click.option("--goal", metavar="METRIC", help="The metric to be better on; the program's own goal if left out.")
@click.option("--guardrail", "guardrails", multiple=True, metavar="METRIC", help="A metric that must not get worse.")
@click.option(
    "--set", "-o", "options", multiple=True, metavar="KEY=VALUE", help="Any key of `experiments:`, as min_effect=0.05."
)
@click.option("--aa", is_flag=True, help="The champion against its own twin.")
@as_json
def simulate(program: str, units_per_day: float, options: tuple[str, ...], as_json: bool, **written: Any) -> None:
    """Simulate an experiment on PROGRAM: how long it takes, what it can find, how it may end. Changes nothing.

    Without CHALLENGERS it is about one that is yet to be made.
    """
    given = {name: value for name, value in written.items() if value}
    for pairs in ("baseline", "split"):
        if pairs in given:
            given[pairs] = dict(map(pair, given[pairs]))
    body = {"program": program, "units_per_day": units_per_day, **given, **dict(map(pair, options))}
    with Server.find() as server:
        found = server.post("/v1/experiments/plan", body)
    show(found, as_json=as_json, human=lambda console: _print(console, found))


def _print(console: Console, plan: dict[str, Any]) -> None:
    """The plan in a sentence, then every scenario."""
    units, days, share = plan["expected_units"], plan["expected_days"], plan["chances"]["promote"]
    console.print(Text(f"{plan['program']}  {', '.join(plan['challengers'])} on {plan['aim']}", "bold"))
    console.print(
        f"Better by the minimum effect: promoted in {share:.0%} of cases, "
        f"after {_whole(units)} units, {_whole(days)} days."
    )
    detectable = plan["detectable_effect"]
    console.print(
        f"No better: promoted in {plan['false_promotion']:.1%}. "
        + (f"Found four times in five: {number(detectable)} or more." if detectable else "No effect is found reliably.")
    )
    console.print()
    rows = [
        (
            f"{found['effect']:+g}",
            _whole(found["units"]),
            _whole(found["days"]),
            *(f"{share:.1%}" for share in found["chances"].values()),
        )
        for found in plan["scenarios"]
    ]
    console.print(table(">true effect", ">units", ">days", *(f">{name}" for name in plan["chances"]), rows=rows))
    known = {**plan["baseline"], **{name: plan[name] for name in ("agreement", "explained") if plan[name]}}
    said = ", ".join(f"{name} {number(mean)}" for name, mean in known.items())
    told = f"assumed {said} · level {number(plan['level'])} · {plan['runs']} simulated experiments each"
    console.print(Text(told, "dim"))


def _whole(found: dict[str, float]) -> str:
    """A mean with where eight in ten lie."""
    return f"{_few(found['mean'])} ({_few(found['low'])} to {_few(found['high'])})"


def _few(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
