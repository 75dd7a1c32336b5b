"""The story the demo tells: serve, measure, put a better instruction on trial, let the server decide, measure again."""

import asyncio
import random
import time
from typing import Any

import httpx
import msgspec

from server.demo.scenes import Scene
from server.demo.screen import Screen
from server.demo.stage import Stage

PATIENCE = 600.0
"""Seconds after which an experiment that has not ended is given up."""
DELAY = (0.2, 1.5)
"""Seconds after which an application knows what became of a prediction."""


class Accuracy(msgspec.Struct, frozen=True):
    """Share of right answers before the experiment, while it ran, and after it."""

    before: float | None
    during: float | None
    after: float | None


class Trial(msgspec.Struct, frozen=True):
    """The experiment and how it ended."""

    experiment_id: str
    verdict: str | None


class Promoted(msgspec.Struct, frozen=True, rename={"from_variant": "from", "to_variant": "to"}):
    """The change of champion."""

    from_variant: str
    to_variant: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What happened, as `ratchet demo --once --json` prints it. Nothing here drifts or compiles yet: those are null."""

    closed: bool
    lm: str
    accuracy: Accuracy
    drift_alarm: None = None
    compile: None = None
    experiment: Trial
    promotion: Promoted | None
    seconds: float


class Tally:
    """Right answers among those told so far in one act of the play."""

    def __init__(self) -> None:
        self.right = 0
        self.told = 0

    @property
    def accuracy(self) -> float | None:
        """None before the first."""
        return self.right / self.told if self.told else None


class Play:
    """One performance on a stage."""

    def __init__(self, scene: Scene, stage: Stage, screen: Screen) -> None:
        self._scene = scene
        self._stage = stage
        self._screen = screen
        self._number = 0
        self._tally = Tally()
        self._reporting: set[asyncio.Task[None]] = set()
        self._chance = random.Random(1)  # noqa: S311  # paces a show, guards nothing

    async def perform(self) -> Summary:
        """The whole play."""
        began = time.monotonic()
        traffic = [asyncio.create_task(self._application()) for _ in range(self._scene.clients)]
        try:
            before = await self._measure("Serving with the champion, as every application sees it.")
            trial, during = await self._experiment()
            after = await self._measure("Serving with the champion of now.")
        finally:
            for task in traffic:
                task.cancel()
            await asyncio.gather(*traffic, *self._reporting, return_exceptions=True)
        program = await self._stage.get(f"/v1/programs/{self._scene.program}")
        promoted = program["champion"] == self._scene.challenger
        return Summary(
            closed=promoted,
            lm=self._scene.lm,
            accuracy=Accuracy(before, during, after),
            experiment=trial,
            promotion=Promoted("base", program["champion"]) if promoted else None,
            seconds=round(time.monotonic() - began, 1),
        )

    async def _measure(self, says: str) -> float | None:
        """Let traffic flow until enough answers are judged."""
        tally = self._tally = Tally()
        self._screen.act(says)
        while tally.told < self._scene.least:
            self._screen.measured(tally.told, self._scene.least, tally.accuracy)
            await asyncio.sleep(0.2)
        self._screen.told(f"{tally.told} answers judged: {tally.accuracy:.1%} right")
        return tally.accuracy

    async def _experiment(self) -> tuple[Trial, float | None]:
        """Upload the challenger, start the experiment, and watch it to its end."""
        tally = self._tally = Tally()
        name, program = self._scene.challenger, self._scene.program
        body = {"name": name, "instructions": self._scene.instructions, "parent": "base"}
        await self._stage.post(f"/v1/programs/{program}/variants", body)
        drafted = await self._stage.post(
            "/v1/experiments", {"program": program, "challengers": [name], **self._scene.trial}
        )
        identity = drafted["experiment_id"]
        await self._stage.post(f"/v1/experiments/{identity}/start", {"reason": "the demo tries another instruction"})
        self._screen.act(f"An experiment weighs {name!r} against the champion. The server decides; nobody touches it.")
        verdict = await self._until_verdict(identity)
        return Trial(identity, verdict), tally.accuracy

    async def _until_verdict(self, identity: str) -> str | None:
        until = time.monotonic() + PATIENCE
        epoch = None
        while time.monotonic() < until:
            report = await self._stage.get(f"/v1/experiments/{identity}/report")
            if epoch not in (None, report["epoch"]) and report["state"] == "running":
                shares = ", ".join(f"{arm['variant']} {arm['split']:.0%}" for arm in report["arms"])
                self._screen.told(f"the split moves to {shares}")
            epoch = report["epoch"]
            self._screen.weighed(report)
            if report["state"] == "concluded":
                self._screen.told(f"verdict: {report['verdict']}. {report['reason']}")
                return str(report["verdict"])
            await asyncio.sleep(0.25)
        return None

    async def _application(self) -> None:
        """One application: calls, waits, reports what became of it. A failing call is shown and tried again."""
        pace = self._scene.clients / self._scene.per_second
        while True:
            began = time.monotonic()
            try:
                await self._call()
            except httpx.HTTPError as error:
                self._screen.told(f"a call failed: {error}")
                await asyncio.sleep(1)
            await asyncio.sleep(max(0.0, pace * self._chance.uniform(0.7, 1.3) - (time.monotonic() - began)))

    async def _call(self) -> None:
        self._number += 1
        case, label = self._scene.cases(self._number)
        body = {"input": case, "unit": f"customer-{self._number}"}
        answer = await self._stage.post(f"/v1/programs/{self._scene.program}/predict", body)
        task = asyncio.create_task(self._report(answer, label, self._tally))
        self._reporting.add(task)
        task.add_done_callback(self._reporting.discard)

    async def _report(self, answer: dict[str, Any], label: dict[str, Any], tally: Tally) -> None:
        """What became of it, a little later: the label a person or a process gave it."""
        await asyncio.sleep(self._chance.uniform(*DELAY))
        item = {"prediction_id": answer["prediction_id"], "label": label, "source": "human"}
        await self._stage.post("/v1/outcomes", {"outcomes": [item]})
        tally.told += 1
        tally.right += answer["output"] == label
