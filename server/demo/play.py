"""The story the demo tells: all is well, the world changes, and the server finds out, learns, tries and promotes.

The demo makes the traffic and changes the world. Everything after that is the server's doing; the play looks on.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx
import msgspec

from server.demo.alerting import Alerts, Prometheus
from server.demo.application import Applications, Tally
from server.demo.scenes import Scene
from server.demo.screen import Screen
from server.demo.stage import Stage

LOOK_EVERY = 0.3
"""Seconds between looks at the server."""

T = TypeVar("T")


class Accuracy(msgspec.Struct, frozen=True):
    """Share of right answers before the world changed, from then to the promotion, and after it."""

    before: float | None
    during: float | None
    after: float | None


class Alarm(msgspec.Struct, frozen=True):
    """What the drift detector said: when it was sure, and since when it thinks things changed."""

    variant: str
    alarm_at: str
    change_point: str | None
    score: float | None
    baseline: float | None


class Compiled(msgspec.Struct, frozen=True):
    """The compile run that led to the trial, and what it was paid."""

    compile_id: str
    optimizer: str
    spent_usd: str


class Trial(msgspec.Struct, frozen=True):
    """The experiment and how it ended."""

    experiment_id: str
    verdict: str | None


class Promoted(msgspec.Struct, frozen=True, rename={"from_variant": "from", "to_variant": "to"}):
    """The change of champion."""

    from_variant: str
    to_variant: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What happened, as `ratchet demo --once --json` prints it; what did not come about is null.

    `prometheus` is there where it was asked for, and null where it is not installed.
    """

    closed: bool
    lm: str
    accuracy: Accuracy
    drift_alarm: Alarm | None = None
    compile: Compiled | None = None
    experiment: Trial | None = None
    promotion: Promoted | None = None
    prometheus: Alerts | msgspec.UnsetType | None = msgspec.UNSET
    seconds: float


class Play:
    """One performance on a stage, watched by a Prometheus if there is one."""

    def __init__(self, scene: Scene, stage: Stage, screen: Screen, prometheus: Prometheus | None = None) -> None:
        self._scene = scene
        self._stage = stage
        self._screen = screen
        self._prometheus = prometheus
        self._program = f"/v1/programs/{scene.program}"
        self._listening: dict[str, asyncio.Task[None]] = {}
        self._trial = Trial("", None)

    async def perform(self) -> Summary:
        """The whole play; what did not happen within the scene's patience is left out of the summary."""
        began = time.monotonic()
        async with Applications(self._scene, self._stage, self._screen) as applications:
            before = applications.counting()
            await self._until(self._settled, "A server serves, and learns how good its champion is.")
            applications.shifted = True
            during = applications.counting()
            alarm = await self._until(self._alarmed, self._scene.shift)
            self._screen.told(f"right are {during.share} answers judged since the change, after {before.share} before")
            run = await self._until(self._compiled, "The server recompiles the program on what users reported since.")
            trial = (
                await self._until(self._tried, "What came of it is on trial. Nobody touches anything.") if run else None
            )
            after = await self._recovered(applications) if trial and trial.verdict == "promote" else None
        for task in self._listening.values():
            task.cancel()
        champion = (await self._stage.get(self._program))["champion"]
        return Summary(
            closed=after is not None,
            lm=self._scene.lm,
            accuracy=Accuracy(before.accuracy, during.accuracy, after.accuracy if after else None),
            drift_alarm=alarm,
            compile=run,
            experiment=trial,
            promotion=Promoted("base", champion) if after else None,
            prometheus=self._prometheus.alerts if self._prometheus is not None else msgspec.UNSET,
            seconds=round(time.monotonic() - began, 1),
        )

    async def _recovered(self, applications: Applications) -> Tally:
        """Right answers since the promotion."""
        after = applications.counting()
        await self._until(lambda: self._measured(after), "The new champion serves.")
        if self._prometheus is not None:
            await self._until(self._prometheus.calm, "Prometheus sees that the alarm is over.")
        return after

    async def _until(self, look: Callable[[], Awaitable[T | None]], says: str) -> T | None:
        """What `look` finds once it has come about; None when that takes longer than the scene's patience."""
        self._screen.act(says)
        until = time.monotonic() + self._scene.patience
        while time.monotonic() < until:
            if (found := await look()) is not None:
                return found
            await asyncio.sleep(LOOK_EVERY)
        self._screen.told("this did not come about in time")
        return None

    async def _settled(self) -> bool | None:
        told = await self._watched()
        if told is None or told["status"] == "warming" or told["outcomes"] < self._scene.least:
            return None
        self._screen.told(f"the champion is right in {told['baseline']:.1%} of {told['outcomes']} judged answers")
        return True

    async def _alarmed(self) -> Alarm | None:
        told = await self._watched()
        if told is None or told["status"] != "alarm":
            return None
        self._screen.told(f"DRIFT ALARM: {told['variant']!r} gets worse, since about {_clock(told['change_point'])}")
        self._screen.told("only what users report of answers since then is learnt from")
        return msgspec.convert(told, Alarm)

    async def _watched(self) -> dict[str, Any] | None:
        """What the drift detector says of the goal's score."""
        told = await self._stage.get(f"{self._program}/drift")
        signal = next((signal for signal in told["signals"] if signal["signal"] == "score"), None)
        if signal is not None:
            self._screen.watched(signal, told["outcomes_between_false_alarms"])
        return signal

    async def _compiled(self) -> Compiled | None:
        """The first run that led to a trial. Runs that did not are shown too, and the next one is waited for."""
        runs = (await self._stage.get(f"/v1/compiles?program={self._scene.program}"))["items"]
        if not runs:
            return None
        run = runs[0]
        if run["compile_id"] not in self._listening:
            self._listening[run["compile_id"]] = asyncio.create_task(self._listen(run["compile_id"]))
        self._screen.compiling(run)
        if run["experiment_id"] is None:
            return None
        self._screen.told(
            f"the gate admits {run['variant']!r}: right in {run['candidate_score']:.1%} of {run['gate']['examples']} "
            f"sealed examples, where the champion is in {run['baseline_score']:.1%}"
        )
        self._trial = Trial(run["experiment_id"], None)
        return Compiled(run["compile_id"], run["optimizer"], run["spent_usd"])

    async def _listen(self, run: str) -> None:
        """Show what a run tells, as it tells it; how many calls it has made is in the figures."""
        known = set[str]()
        with contextlib.suppress(httpx.HTTPError):  # what is not heard here is in the run's record
            for text in (await self._stage.instructions("base")).values():
                known.update(text.splitlines())
            async for event in self._stage.events(f"/v1/compiles/{run}/events"):
                if event["kind"] == "proposed":
                    lines = event["text"].splitlines()
                    new = [line for line in lines if line not in known]
                    self._screen.told(f"  proposes: {' / '.join(new or lines[-1:])}")
                    known.update(new)
                elif event["kind"] != "progress":
                    self._screen.told(f"  {event['said']}")

    async def _tried(self) -> Trial | None:
        report = await self._stage.get(f"/v1/experiments/{self._trial.experiment_id}/report")
        self._screen.weighed(report)
        if report["state"] != "concluded":
            return None
        self._screen.told(f"verdict: {report['verdict']}. {report['reason']}")
        return Trial(report["experiment_id"], report["verdict"])

    async def _measured(self, tally: Tally) -> bool | None:
        self._screen.measured(tally.told, self._scene.least, tally.accuracy)
        if tally.told < self._scene.least:
            return None
        self._screen.told(f"right are {tally.share} answers judged since the promotion")
        return True


def _clock(at: str | None) -> str:
    return f"{at[11:19]} UTC" if at else "an unknown moment"
