"""The demo's server, in a process of its own, and the HTTP calls that applications and operators make to it."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec

from experiments.errors import Unavailable
from server.demo.scenes import Scene
from server.presence import present
from server.settings import Settings

_START = 60.0
_ENVIRONMENT = {"RATCHET_TICK": "500ms", "RATCHET_LOG_LEVEL": "warning"}


class Stage:
    """A server with the scene's definitions, running from `open` to `close`."""

    def __init__(self, scene: Scene, data: Path, settings: Settings) -> None:
        self.data = data
        self._scene = scene
        self._port = settings.port
        self.url = ""
        self._process: asyncio.subprocess.Process | None = None
        self._http: httpx.AsyncClient | None = None
        self.log = data / "server.log"

    async def open(self) -> None:
        """Start the server and wait until it answers. Raises: Unavailable with what it said."""
        self.data.mkdir(parents=True, exist_ok=True)
        settings = {**_ENVIRONMENT, "RATCHET_DATA": str(self.data), "RATCHET_PORT": str(await self._free_port())}
        settings["RATCHET_DATABASE_URL"] = f"sqlite:///{self.data / 'ratchet.db'}"
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", "from server.cli import main; main()",
                "up", "--config", str(self._scene.definitions),
                env={**os.environ, **settings}, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.url = await self._answering()
        self._http = httpx.AsyncClient(base_url=self.url, timeout=60, limits=httpx.Limits(max_connections=64))

    async def close(self) -> None:
        """Stop the server and wait for it: what it acknowledged is on disk either way."""
        if self._process is not None:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.send_signal(signal.SIGTERM)
            await self._process.wait()
        if self._http is not None:
            await self._http.aclose()

    async def get(self, path: str) -> Any:
        """The decoded answer. Raises: httpx.HTTPStatusError."""
        return (await self._client.get(path)).raise_for_status().json()

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The decoded answer. Raises: httpx.HTTPStatusError."""
        return (await self._client.post(path, json=body)).raise_for_status().json()

    async def events(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """The events of a stream as they come, until the server ends it. Raises: httpx.HTTPError."""
        async with self._client.stream("GET", path) as answer:
            async for line in answer.raise_for_status().aiter_lines():
                if line.startswith("data:"):
                    yield msgspec.json.decode(line.removeprefix("data:"))

    async def instructions(self, variant: str) -> dict[str, str]:
        """What a variant tells the language model, predictor by predictor."""
        told: dict[str, str] = (await self.get(f"/v1/programs/{self._scene.program}/variants/{variant}"))[
            "instructions"
        ]
        return told

    @property
    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            raise RuntimeError("the stage is not open")
        return self._http

    async def until_interrupted(self) -> None:
        """Keep the server up until Ctrl-C, or until it ends by itself."""
        if self._process is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._process.wait()

    async def _free_port(self) -> int:
        """The port asked for; 0, which lets the system choose, when somebody else listens there."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return self._port
        writer.close()
        return 0

    async def _answering(self) -> str:
        until = asyncio.get_running_loop().time() + _START
        while asyncio.get_running_loop().time() < until and self._process and self._process.returncode is None:
            if found := present(self.data):
                return found.url
            await asyncio.sleep(0.05)
        said = self.log.read_text(errors="replace").strip().splitlines()[-5:]
        raise Unavailable("the demo's server did not start: " + (" / ".join(said) or "it said nothing"))
