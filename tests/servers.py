"""Real servers for tests: `ratchet` in a process of its own, on a free loopback port, ended by its process id."""

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

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

_RATCHET = str(Path(sys.executable).with_name("ratchet"))
_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["server.app", "server.cli.main", "pysqlite3", "psycopg", "uvloop"])
"""Every server is forked from one process that has imported everything: a start takes a tenth of the time."""


class RunningServer:
    """One `ratchet up` (or another verb that serves), from when it answers until the block is left."""

    def __init__(
        self, data: Path, *, config: Path | None = None, verb: str = "up", environment: Mapping[str, str] | None = None
    ) -> None:
        arguments = [verb, *(["--config", str(config)] if config else []), *(["--json"] if verb == "work" else [])]
        settings = {"RATCHET_PORT": "0", "RATCHET_LOG_LEVEL": "warning", **(environment or {})}
        data.mkdir(parents=True, exist_ok=True)
        self._note = data / "server.json"
        self._note.unlink(missing_ok=True)
        self.log = data / "server.log"
        self._said = self.log.stat().st_size if self.log.exists() else 0
        self.environment = {**os.environ, **settings, "RATCHET_DATA": str(data)}
        self.process = _FORKING.Process(target=_become, args=(arguments, self.environment, str(self.log)))
        self.process.start()
        self.url = self._await_url()

    def _await_url(self) -> str:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if not self.process.is_alive():
                raise AssertionError(f"the server ended with {self.process.exitcode}:\n{self.log.read_text()}")
            if url := self._told():
                return url
            time.sleep(0.01)
        self.kill()
        raise AssertionError(f"the server did not start within a minute:\n{self.log.read_text()}")

    def _told(self) -> str | None:
        """Its address: in the note that other verbs find it by, or where it leaves none, in what it prints."""
        if self._note.exists():
            return str(json.loads(self._note.read_bytes())["url"])
        printed = self.log.read_bytes()[self._said :] if self.log.exists() else b""
        return next((json.loads(line)["url"] for line in printed.splitlines() if line.startswith(b'{"url"')), None)

    @property
    def pid(self) -> int:
        """Its process."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    def client(self) -> httpx.Client:
        """An HTTP client of this server; a context manager."""
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What `ratchet ARGUMENTS` says when it is run beside this server."""
        return command(*arguments, environment=self.environment)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait until it has ended; the exit code, below zero for a signal."""
        self.process.join(60)
        assert self.process.exitcode is not None, "the server did not end within a minute"
        return self.process.exitcode

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.wait()

    def stop(self) -> int:
        """SIGTERM, and wait; the exit code."""
        self.send(signal.SIGTERM)
        return self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.is_alive():
            self.kill()
        if error is not None:
            error.add_note(f"the server's log:\n{self.log.read_text()[-5000:]}")


def _become(arguments: list[str], environment: Mapping[str, str], log: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(out, 1)
    os.dup2(out, 2)
    from server.cli.main import ratchet  # noqa: PLC0415 -- imported in the process that is forked, not in pytest's

    ratchet(arguments, prog_name="ratchet")


def command(*arguments: str, environment: Mapping[str, str], seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """What the command itself says, run to its end within so many seconds."""
    return subprocess.run(
        [_RATCHET, *arguments], env=dict(environment), check=False, capture_output=True, text=True, timeout=seconds
    )


async def post(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    path: str,
    body: Any,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any]:
    """One POST on an open connection: status and decoded answer. Raises EOFError or OSError when the server is gone."""
    raw = json.dumps(body).encode()
    lines = {
        "Host": "localhost",
        "Content-Type": "application/json",
        "Content-Length": str(len(raw)),
        **(headers or {}),
    }
    head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    writer.write(head.encode() + raw)
    got = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    length = next(int(line.split(b":")[1]) for line in got if line.lower().startswith(b"content-length:"))
    return int(got[0].split(b" ")[1]), json.loads(await reader.readexactly(length))
