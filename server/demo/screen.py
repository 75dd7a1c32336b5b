"""What the demo shows: how often answers are right over time, where the server is in its loop, and what it found."""

import math
import os
import shutil
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from server.demo.scenes import Scene
from server.pictures import gauge, interval, line

if TYPE_CHECKING:
    from server.demo.play import Summary
    from server.demo.stage import Stage

_WIDTH = 60
_MARGIN = 32
"""Columns that a picture leaves free: the panel's, and those of the numbers beside it."""
_FIGURES = 22
"""Lines of the panel that are not events, at most; the rest of the terminal is for these."""
_BUCKET = 2.0
"""Seconds that one character of the line over time stands for, at first; they double when the line is full."""


class Screen:
    """The terminal while the demo plays; on anything but a terminal only the events, a line each."""

    def __init__(self, console: Console, scene: Scene | None) -> None:
        self.console = console
        self._scene = scene
        self._began = time.monotonic()
        self._act = "Starting a server ..."
        self._figures: RenderableType = Text("")
        self._events: list[str] = []
        self._width = max(10, min(_WIDTH, console.width - _MARGIN))
        self._judged = Judged(self._width)
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=5, transient=True)

    def __enter__(self) -> Self:
        if self._scene is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._scene is not None:
            self._live.stop()
            for event in self._events:
                self._print(event)

    def act(self, says: str) -> None:
        """A new act begins."""
        self._act = says
        self._figures = Text("")
        self.told(says)

    def told(self, event: str) -> None:
        """Something happened."""
        said = f"{time.monotonic() - self._began:6.1f}s  {event}"
        self._events.append(said)
        if self._scene is None:
            self._print(said)

    def _print(self, event: str) -> None:
        self.console.print(event, highlight=False, markup=False, soft_wrap=not self.console.is_terminal)

    def judged(self, *, right: bool) -> None:
        """One more answer was judged."""
        self._judged.add(time.monotonic() - self._began, right=right)

    def measured(self, told: int, least: int, accuracy: float | None) -> None:
        """How accuracy looks so far."""
        shown = "no answer judged yet" if accuracy is None else f"{accuracy:.1%} right"
        self._figures = Group(Text(f"{told} of {least} answers judged, {shown}"), gauge(told / least, self._width))

    def watched(self, signal: dict[str, Any], run_length: float | None) -> None:
        """What the drift detector makes of the goal's score, at so many outcomes between two false alarms."""
        evidence = signal["evidence_ratio"] or 0.0
        scores = [f"{name} {signal[key]:.1%}" for name, key in _SCORES if signal[key] is not None]
        rarely = f"; chance raises it once in {run_length:,.0f} outcomes, or less often" if run_length else ""
        self._figures = Group(
            Text(", ".join([f"drift detector: {signal['status']}, {signal['outcomes']} outcomes", *scores])),
            gauge(evidence, self._width, style="red" if evidence > 0.7 else "cyan"),
            Text(f"evidence of a fall: {evidence:.0%} of the way to an alarm{rarely}"),
        )

    def compiling(self, run: dict[str, Any]) -> None:
        """How far the compile run is."""
        if run["state"] == "queued":
            self._figures = Text(f"{run['optimizer']} is about to begin, in a process of its own")
            return
        progress = run["progress"]
        calls, budget = progress["metric_calls"], progress["metric_calls_budget"] or 1
        best = progress["best_score"]
        said = [
            f"{run['optimizer']} is {run['state']}: iteration {progress['iteration']}",
            f"{calls} of {budget} metric calls",
            f"best on its valset {'-' if best is None else f'{best:.1%}'}, spent ${run['spent_usd']}",
        ]
        self._figures = Group(Text(", ".join(said)), gauge(calls / budget, self._width))

    def weighed(self, report: dict[str, Any]) -> None:
        """Where the experiment stands."""
        self._figures = Group(_arms(report), Text(), *_weights(report, self._width))

    def _render(self) -> Panel:
        title = self._scene.title if self._scene else ""
        model = Text.assemble(("Language model: ", "dim"), (self._scene.lm if self._scene else "", "bold yellow"))
        strip = Text.assemble(("right answers   ", "dim"), (self._judged.line(), "green"), f" {self._judged.lately}")
        shown = max(3, self.console.height - _FIGURES)
        events = Text("\n".join(self._events[-shown:]), style="dim", overflow="ellipsis", no_wrap=True)
        body = Group(model, Text(), strip, Text(), Text(self._act, style="bold"), Text(), self._figures, Text(), events)
        return Panel(body, title=f"[bold]Ratchet demo[/] · {escape(title)}", padding=(1, 2))


class Judged:
    """The share of right answers over time, in so many steps as fit a line of `width` characters."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._bucket = _BUCKET
        self._counts: list[tuple[int, int]] = []

    def add(self, at: float, *, right: bool) -> None:
        """Count an answer judged `at` seconds after the beginning."""
        place = int(at / self._bucket)
        if place >= self._width:
            pairs = [self._counts[i : i + 2] for i in range(0, len(self._counts), 2)]
            self._counts = [(sum(n for n, _ in pair), sum(r for _, r in pair)) for pair in pairs]
            self._bucket *= 2
            place = int(at / self._bucket)
        self._counts += [(0, 0)] * (place + 1 - len(self._counts))
        told, rights = self._counts[place]
        self._counts[place] = (told + 1, rights + right)

    def line(self) -> str:
        """One character for each stretch of time, from none right to all."""
        return line([rights / told if told else None for told, rights in self._counts])

    @property
    def lately(self) -> str:
        """The share in the last two stretches."""
        told = sum(n for n, _ in self._counts[-2:])
        return f"{sum(r for _, r in self._counts[-2:]) / told:.0%}" if told else ""


def quiet(console: Console) -> Screen:
    """A screen for anything that is not a terminal."""
    return Screen(console, None)


_SCORES = (("lately right", "score"), ("before", "baseline"))


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


def _weights(report: dict[str, Any], width: int) -> list[Text]:
    """The interval, and the evidence on its way to the threshold."""
    goal = _goal(report)
    log_e = goal["log_e_better"] or 0.0
    level = report["level"]
    needed = math.log(1 / level) if level else math.inf
    evidence = f"evidence {math.exp(min(log_e, 50)):.3g} of {1 / level:.0f} needed" if level else ""
    return [
        Text("difference in the goal, with its confidence sequence (it holds however often one looks)"),
        _interval(goal["interval"]["lower"], goal["estimate"], goal["interval"]["upper"], width),
        Text(evidence),
        gauge(log_e / needed, width),
    ]


def _interval(lower: float | None, estimate: float | None, upper: float | None, width: int) -> Text:
    """The interval, zoomed in as it shrinks, with its ends in points."""
    low, high = -1.0 if lower is None else lower, 1.0 if upper is None else upper
    drawn = interval(low, estimate, high, min(1.0, 1.15 * max(abs(low), abs(high), 0.05)), width + 1)
    return drawn.append(f"  {100 * low:+.1f} to {100 * high:+.1f} points", style="default")


def _command() -> str:
    """How this very command is called here; in a checkout it is on nobody's path."""
    called = Path(sys.argv[0])
    if shutil.which(called.name):
        return called.name
    return min(os.path.relpath(called), str(called), key=len)


def _goal(report: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in report["comparisons"] if c["role"] == "goal")
    return found


def instructions(console: Console, before: dict[str, str], after: dict[str, str]) -> None:
    """What the program was told, and what it is told now."""
    for predictor, text in after.items():
        console.print(
            Panel(escape(before.get(predictor, "")), title="the instruction as a person wrote it", style="dim")
        )
        console.print(Panel(escape(text), title="the instruction that was learnt", style="green"))


def farewell(console: Console, scene: Scene, summary: "Summary", stage: "Stage", *, stay: bool) -> None:
    """What happened, and where to look."""
    console.print(Panel(_outcome(scene, summary, stage), title="[bold]What happened[/]", padding=(1, 2)))
    if stay:
        console.print("The server is still up; Ctrl-C ends it. Meanwhile, in the browser or another terminal:")
    else:
        console.print("The server has ended, its data is kept:")
    for what, why in _looks(scene, summary, stage, stay=stay):
        console.print(f"  {what}\n      {why}", highlight=False, soft_wrap=True, markup=False)


def _outcome(scene: Scene, summary: "Summary", stage: "Stage") -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    accuracy = summary.accuracy
    acts = {"before the change": accuracy.before, "until the promotion": accuracy.during, "now": accuracy.after}
    shares = [f"{value:.1%} {name}" for name, value in acts.items() if value is not None]
    table.add_row("right answers", ", ".join(shares))
    alarm, run, trial, moved = summary.drift_alarm, summary.compile, summary.experiment, summary.promotion
    table.add_row("drift alarm", f"at {alarm.alarm_at[11:19]} UTC" if alarm else "none")
    table.add_row("compile run", f"{run.optimizer}, ${run.spent_usd} (run {run.compile_id})" if run else "none")
    table.add_row("verdict", f"{trial.verdict} (experiment {trial.experiment_id})" if trial else "none")
    table.add_row("champion", f"{moved.from_variant} → {moved.to_variant}" if moved else "unchanged")
    if summary.prometheus:
        seen = summary.prometheus
        over = f"resolved: {', '.join(seen.resolved) or 'none'}"
        table.add_row("Prometheus", f"fired: {', '.join(seen.fired) or 'none'}; {over}")
    table.add_row("language model", scene.lm)
    table.add_row("took", f"{summary.seconds:.0f} s; data and log in {stage.data}")
    return table


def _looks(scene: Scene, summary: "Summary", stage: "Stage", *, stay: bool) -> list[tuple[str, str]]:
    here = f"RATCHET_DATA={stage.data} {_command()}"
    looks = [(f"{here} drift {scene.program}", "what the detector sees, signal by signal")]
    if summary.experiment:
        identity = summary.experiment.experiment_id
        looks += [
            (f"{here} experiments show {identity}", "where it ended, with its evidence"),
            (f"{here} replay {identity}", "derives the decision again from the raw rows"),
        ]
    if stay:
        return [
            (f"{stage.url}/docs", "every endpoint, to try out"),
            (f"{stage.url}/metrics", "what Prometheus sees"),
            *looks,
        ]
    return [(f"{here} up", "serves what the demo left behind; while it does, these tell more:"), *looks[1:]]
