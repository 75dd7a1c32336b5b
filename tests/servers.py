"""Real servers for tests: `ratchet` in a process of its own, on a free loopback port, ended by its process id."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

DEFINITIONS = """
programs:
  triage:
    signature: "ticket: str -> category: Literal['billing', 'bug', 'how-to', 'other']"
    instructions: Classify the support ticket.
    lm: {model: sim/triage, price: {input: 0.25, output: 2}}
    timeout: 5s
    metrics:
      correct: {kind: exact_match, field: category, role: goal, expected: all}
      solved: {kind: boolean}
      rating: {kind: score, range: [1, 5], direction: higher}
"""

RATCHET = str(Path(sys.executable).with_name("ratchet"))


class RunningServer:
    """One `ratchet up` (or another verb that serves), from when it answers until the block is left."""

    def __init__(
        self, data: Path, *, config: Path | None = None, verb: str = "up", environment: dict[str, str] | None = None
    ) -> None:
        arguments = [RATCHET, verb, *(["--config", str(config)] if config else [])]
        settings = {"RATCHET_DATA": str(data), "RATCHET_PORT": "0", "RATCHET_LOG_LEVEL": "warning", **(environment or {})}
        data.mkdir(parents=True, exist_ok=True)
        self._note = data / "server.json"
        self._note.unlink(missing_ok=True)
        self.log = data / "server.log"
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                arguments, env={**os.environ, **settings}, stdout=out, stderr=subprocess.STDOUT
            )
        self.port = self._await_port()

    def _await_port(self) -> int:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log.read_text()}")
            if self._note.exists() and (written := self._note.read_text()):
                return int(json.loads(written)["url"].rsplit(":", 1)[1])
            time.sleep(0.02)
        self.kill()
        raise AssertionError(f"the server did not start within a minute:\n{self.log.read_text()}")

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def stop(self) -> int:
        """SIGTERM, and wait; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.kill()


async def post(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    path: str,
    body: Any,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any]:
    """One POST on an open connection: status and decoded answer. Raises EOFError or OSError when the server is gone."""
    raw = json.dumps(body).encode()
    lines = {"Host": "x", "Content-Type": "application/json", "Content-Length": str(len(raw)), **(headers or {})}
    head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    writer.write(head.encode() + raw)
    got = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    length = next(int(line.split(b":")[1]) for line in got if line.lower().startswith(b"content-length:"))
    return int(got[0].split(b" ")[1]), json.loads(await reader.readexactly(length))
