"""What every variant did of late, as a table: rate of errors, latency, money, scores."""

from typing import Any

from rich.table import Table

from server.cli.client import Server
from server.cli.output import table


def read(server: Server, programs: list[dict[str, Any]], window: str) -> dict[str, Any]:
    """The analytics of every program that is served, by name. Raises: Refused for a window that is none."""
    served = [program["name"] for program in programs if program["champion"]]
    return {name: server.get(f"/v1/programs/{name}/analytics", window=window) for name in served}


def shown(figures: dict[str, Any], window: str) -> Table:
    """One line for each variant that was asked."""
    rows = [
        (
            name,
            each["variant"],
            each["predictions"],
            _share(each["error_ratio"]),
            *(_milliseconds(each["latency_ms"][quantile]) for quantile in ("p50", "p95", "p99")),
            _dollars(each["cost_per_prediction_usd"]),
            _dollars(each["cost_per_correct_usd"]),
            ", ".join(
                f"{metric} {score['mean']:.3g} ({score['n']})" for metric, score in each["scores"].items() if score["n"]
            ),
        )
        for name, analytics in figures.items()
        for each in analytics["variants"]
    ]
    columns = (
        "program",
        "variant",
        ">asked",
        ">errors",
        ">p50",
        ">p95",
        ">p99",
        ">a request",
        ">a right one",
        "scores (of)",
    )
    return table(*columns, rows=rows, title=f"The last {window}")


def _share(ratio: float | None) -> str | None:
    return None if ratio is None else f"{ratio:.1%}"


def _milliseconds(latency: float | None) -> str | None:
    return None if latency is None else f"{latency:.0f} ms"


def _dollars(amount: str | None) -> str | None:
    return None if amount is None else f"${float(amount):.3g}"
