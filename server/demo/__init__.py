"""`ratchet demo`: the whole loop, watched. A real server in its own process, real traffic over HTTP, real decisions.

The language model is the simulated one unless `--lm local` asks for the small real one, and the screen says which.
"""

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import rich_click as click
from rich.console import Console

from experiments.errors import Invalid
from server.demo.alerting import Prometheus, asked_for
from server.demo.play import Play, Summary
from server.demo.scenes import SCENES, Scene
from server.demo.screen import Screen, farewell, instructions, quiet
from server.demo.stage import Stage
from server.settings import Settings


def run(settings: Settings, *, lm: str, once: bool, as_json: bool) -> int:
    """Play the scene of `lm` (sim or local) until its loop has closed; 0 when it did, 1 when it did not.

    With `once` the demo ends there; otherwise the server stays up to be looked at, until Ctrl-C. Raises: Invalid when
    the data directory holds a demo already, or the extra that `lm` needs is missing.
    """
    scene = SCENES[lm]()
    data = _fresh(Path(settings.data))
    console = Console(stderr=as_json)
    screen = quiet(console) if as_json or not console.is_terminal else Screen(console, scene)
    try:
        summary = asyncio.run(_play(scene, data, settings, screen, stay=not once and console.is_terminal))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print(f"Stopped. What was recorded is kept in {data}.", highlight=False, soft_wrap=True)
        return 1
    if as_json:
        click.echo(msgspec.json.encode(summary))
    return 0 if summary.closed else 1


async def _play(scene: Scene, data: Path, settings: Settings, screen: Screen, *, stay: bool) -> Summary:
    _end_in_order()
    stage = Stage(scene, data, settings)
    prometheus = Prometheus(data, screen) if asked_for(os.environ) else None
    try:
        with screen:
            screen.act("Starting a server of its own.")
            await stage.open()
            screen.told(f"it is at {stage.url}, and its metrics at {stage.url}/metrics")
            if prometheus is not None:
                await prometheus.open(stage.url)
            summary = await Play(scene, stage, screen, prometheus).perform()
        if summary.promotion:
            moved = [summary.promotion.from_variant, summary.promotion.to_variant]
            instructions(screen.console, *[await stage.instructions(name) for name in moved])
        farewell(screen.console, scene, summary, stage, stay=stay)
        if stay:
            await stage.until_interrupted()
    finally:
        if prometheus is not None:
            await prometheus.close()
        await stage.close()
    return summary


def _end_in_order() -> None:
    """However the demo is ended, its server is told to end too: it does not hear the terminal's signals itself."""
    task = asyncio.current_task()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _fresh(wanted: Path) -> Path:
    """The directory for this demo's data: the one asked for, or a new one beside it if that is in use."""
    for number in range(1, 1000):
        data = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if not data.exists() or not any(data.iterdir()):
            return data
    raise Invalid(f"{wanted} and its 999 successors all hold data; give RATCHET_DATA another directory")
