"""The demo's applications and their users: they ask, and a little later they tell what the right answer was."""

import asyncio
import random
import time
from types import TracebackType
from typing import Any, Self

import httpx

from server.demo.scenes import Scene
from server.demo.screen import Screen
from server.demo.stage import Stage

DELAY = (0.2, 1.5)
"""Seconds after which an application knows what became of a prediction."""


class Tally:
    """Right answers among those told since it began."""

    def __init__(self) -> None:
        self.right = 0
        self.told = 0

    @property
    def accuracy(self) -> float | None:
        """None before the first."""
        return self.right / self.told if self.told else None

    @property
    def share(self) -> str:
        """Such as "38.0% of 250"."""
        return f"{self.right / max(1, self.told):.1%} of {self.told}"


class Applications:
    """Traffic from entering the block to leaving it. Assign `tally` to count anew, set `shifted` to change the world.

    A failing call is shown and tried again: a demo that stops at the first hitch shows less than one that goes on.
    """

    def __init__(self, scene: Scene, stage: Stage, screen: Screen) -> None:
        self.tally = Tally()
        self.shifted = False
        self._scene = scene
        self._stage = stage
        self._screen = screen
        self._number = 0
        self._working: list[asyncio.Task[None]] = []
        self._reporting: set[asyncio.Task[None]] = set()
        self._chance = random.Random(1)  # noqa: S311  # paces a show, guards nothing

    def counting(self) -> Tally:
        """A fresh tally, which counts from now on."""
        self.tally = Tally()
        return self.tally

    async def __aenter__(self) -> Self:
        self._working = [asyncio.create_task(self._work()) for _ in range(self._scene.clients)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for task in self._working:
            task.cancel()
        await asyncio.gather(*self._working, *self._reporting, return_exceptions=True)

    async def _work(self) -> None:
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
        case, label = (self._scene.shifted if self.shifted else self._scene.cases)(self._number)
        body = {"input": case, "unit": f"customer-{self._number}"}
        answer = await self._stage.post(f"/v1/programs/{self._scene.program}/predict", body)
        task = asyncio.create_task(self._report(answer, label, self.tally))
        self._reporting.add(task)
        task.add_done_callback(self._reporting.discard)

    async def _report(self, answer: dict[str, Any], label: dict[str, Any], tally: Tally) -> None:
        """What became of it: the label a person or a process gave it."""
        await asyncio.sleep(self._chance.uniform(*DELAY))
        item = {"prediction_id": answer["prediction_id"], "label": label, "source": "human"}
        try:
            await self._stage.post("/v1/outcomes", {"outcomes": [item]})
        except httpx.HTTPError as error:
            self._screen.told(f"an outcome was not taken: {error}")
            return
        tally.told += 1
        tally.right += answer["output"] == label
        self._screen.judged(right=answer["output"] == label)
