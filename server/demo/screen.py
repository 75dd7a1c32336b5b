"""What the demo shows: what happens, how far it is, and the interval closing in on a decision."""

import math
import os
import shutil
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from server.demo.scenes import Scene

if TYPE_CHECKING:
    from server.demo.play import Summary
    from server.demo.stage import Stage

_WIDTH = 60
_SHOWN = 8


class Screen:
    """The terminal while the demo plays; on anything but a terminal only the events, a line each."""

    def __init__(self, console: Console, scene: Scene | None) -> None:
        self.console = console
        self._scene = scene
        self._began = time.monotonic()
        self._act = "Starting a server ..."
        self._figures: Group | Text = Text("")
        self._events: list[str] = []
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=5, transient=True)

    def __enter__(self) -> Self:
        if self._scene is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._scene is not None:
            self._live.stop()
            for line in self._events:
                self.console.print(line, highlight=False)

    def act(self, says: str) -> None:
        """A new act begins."""
        self._act = says
        self._figures = Text("")
        self.told(says)

    def told(self, event: str) -> None:
        """Something happened."""
        line = f"{time.monotonic() - self._began:6.1f}s  {event}"
        self._events.append(line)
        if self._scene is None:
            self.console.print(line, highlight=False)

    def measured(self, told: int, least: int, accuracy: float | None) -> None:
        """How accuracy looks so far."""
        shown = "no answer judged yet" if accuracy is None else f"{accuracy:.1%} right"
        self._figures = Group(Text(f"{told} of {least} answers judged, {shown}"), ProgressBar(least, told, _WIDTH))

    def weighed(self, report: dict[str, Any]) -> None:
        """Where the experiment stands."""
        self._figures = Group(_arms(report), Text(), *_weights(report))

    def _render(self) -> Panel:
        title = self._scene.title if self._scene else ""
        model = Text.assemble(("Language model: ", "dim"), (self._scene.lm if self._scene else "", "bold yellow"))
        events = Text("\n".join(self._events[-_SHOWN:]), style="dim")
        body = Group(model, Text(), Text(self._act, style="bold"), Text(), self._figures, Text(), events)
        return Panel(body, title=f"[bold]Ratchet demo[/] · {title}", padding=(1, 2))


def quiet(console: Console) -> Screen:
    """A screen for anything that is not a terminal."""
    return Screen(console, None)


def _arms(report: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("variant", "role", "share", "assigned", "matured", "right so far"):
        table.add_column(heading, justify="left" if heading in ("variant", "role") else "right")
    goal = _goal(report)["metric"]
    for arm in report["arms"]:
        mean = arm["means"].get(goal, {}).get("mean")
        table.add_row(
            arm["variant"], arm["role"], f"{arm['split']:.0%}", str(arm["assigned"]), str(arm["matured"]),
            "" if mean is None else f"{mean:.1%}",
        )  # fmt: skip
    return table


def _weights(report: dict[str, Any]) -> list[Text | ProgressBar]:
    """The interval, and the evidence on its way to the threshold."""
    goal = _goal(report)
    log_e = goal["log_e_better"] or 0.0
    level = report["level"]
    needed = math.log(1 / level) if level else math.inf
    evidence = f"evidence {math.exp(min(log_e, 50)):.3g} of {1 / level:.0f} needed" if level else ""
    return [
        Text("difference in the goal, with its confidence sequence (it holds however often one looks)"),
        interval_bar(goal["interval"]["lower"], goal["estimate"], goal["interval"]["upper"], _WIDTH),
        Text(evidence),
        ProgressBar(100, max(0.0, min(100.0, 100 * log_e / needed)), _WIDTH),
    ]


def interval_bar(lower: float | None, estimate: float | None, upper: float | None, width: int) -> Text:
    """An interval on the line from -1 to 1 (zoomed in as it shrinks), with zero marked: `----(====o===)--|---`."""
    low, high = -1.0 if lower is None else lower, 1.0 if upper is None else upper
    reach = min(1.0, 1.15 * max(abs(low), abs(high), 0.05))

    def column(value: float) -> int:
        return round((max(-reach, min(reach, value)) + reach) / (2 * reach) * (width - 1))

    line = ["─"] * width
    for place in range(column(low), column(high) + 1):
        line[place] = "━"
    line[column(0.0)] = "┃"
    if estimate is not None:
        line[column(estimate)] = "●"
    style = "green" if low > 0 else "red" if high < 0 else "cyan"
    ends = f"  {100 * low:+.1f} to {100 * high:+.1f} points"
    return Text("".join(line), style=style).append(ends, style="default")


def _command() -> str:
    """How this very command is called here; in a checkout it is on nobody's path."""
    called = Path(sys.argv[0])
    if shutil.which(called.name):
        return called.name
    return min(os.path.relpath(called), str(called), key=len)


def _goal(report: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in report["comparisons"] if c["role"] == "goal")
    return found


def farewell(console: Console, scene: Scene, summary: "Summary", stage: "Stage", *, stay: bool) -> None:
    """What happened, and where to look."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    accuracy = summary.accuracy
    acts = {"before": accuracy.before, "during": accuracy.during, "after": accuracy.after}
    shares = [f"{name} {value:.1%}" for name, value in acts.items() if value is not None]
    table.add_row("right answers", ", ".join(shares))
    table.add_row("verdict", f"{summary.experiment.verdict} (experiment {summary.experiment.experiment_id})")
    moved = summary.promotion
    table.add_row("champion", f"{moved.from_variant} → {moved.to_variant}" if moved else "unchanged")
    table.add_row("language model", scene.lm)
    table.add_row("took", f"{summary.seconds:.0f} s; data and log in {stage.data}")
    console.print(Panel(table, title="[bold]What happened[/]", padding=(1, 2)))
    experiment, here = summary.experiment.experiment_id, f"RATCHET_DATA={stage.data} {_command()}"
    looks = [
        (f"{here} experiments show {experiment}", "where it ended, with its evidence"),
        (f"{here} replay {experiment}", "derives the decision again from the raw rows"),
    ]
    if stay:
        looks.insert(0, (f"{stage.url}/docs", "every endpoint, to try out"))
        console.print("The server is still up; Ctrl-C ends it. Meanwhile, in the browser or another terminal:")
    else:
        looks.insert(0, (f"{here} up", "serves what the demo left behind"))
        console.print("The server has ended, its data is kept:")
    for what, why in looks:
        console.print(f"  {what}\n      {why}", highlight=False, soft_wrap=True)
