"""The real application in a test's own process and event loop, with a language model that says what the test wants."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from litestar.datastructures import State

from learning.running import Runner
from server import clock
from server.app import create_app
from server.definitions.applying import apply
from server.ratchet import Ratchet
from server.settings import Settings
from tests.scripted_lm import Script, ScriptedLm, chat

DEFINITIONS = """
programs:
  triage:
    signature: "ticket: str -> category: Literal['billing', 'bug', 'how-to', 'other']"
    instructions: Classify the support ticket.
    lm: {model: sim/triage, num_retries: 0, price: {input: 1, output: 2}}
    timeout: 5s
    metrics:
      correct: {kind: exact_match, field: category, role: goal, expected: all}
      solved: {kind: boolean}
      rating: {kind: score, range: [1, 5]}
      revenue: {kind: positive}
      latency: {kind: latency}
"""


class Clock:
    """The wall clock, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return clock.now() + self.ahead


class Application:
    """One application that is up: `http` to talk to it, `ratchet` and `state` to look inside."""

    def __init__(self, http: httpx.AsyncClient, state: State) -> None:
        self.http = http
        self.state = state
        self.ratchet: Ratchet = state.ratchet

    async def predict(self, ticket: str = "It crashed", *, key: str | None = None, **body: Any) -> httpx.Response:
        """One prediction of `triage`."""
        headers = {} if key is None else {"Idempotency-Key": key}
        wanted = {"input": {"ticket": ticket}, **body}
        return await self.http.post("/v1/programs/triage/predict", json=wanted, headers=headers)

    async def report(self, *outcomes: Any) -> list[dict[str, Any]]:
        """What became of each of these outcomes."""
        answer = await self.http.post("/v1/outcomes", json={"outcomes": outcomes})
        assert answer.status_code == 200, answer.text
        results: list[dict[str, Any]] = answer.json()["results"]
        return results


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that others bring about; half a minute at most."""
    for _ in range(600):
        if holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("waited in vain")


@asynccontextmanager
async def application(
    url: str,
    script: Script = lambda _model, _prompt: chat(category="bug"),
    *,
    definitions: str = DEFINITIONS,
    now: Callable[[], int] = clock.now,
    embedded: bool = True,
    data: Path = Path("ratchet-data"),
) -> AsyncIterator[Application]:
    """The application on the migrated database at `url`, with `definitions` applied."""
    lm = ScriptedLm(script)
    settings = Settings(data=str(data), database_url=url, embedded=embedded, tick=3600 * 10**6, log_level="error")
    app = create_app(settings, now=now, runner=lambda: Runner(open_lm=lm.open))
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]  # Litestar narrows what ASGI leaves open
    async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        await apply(app.state.ratchet, definitions, "ratchet.yaml", "test")
        yield Application(http, app.state)
