"""The processes of a benchmark: each on a free port, ended by its process id when the block is left."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

RATCHET = str(Path(sys.executable).with_name("ratchet"))
_DEFINITIONS = """
programs:
  triage:
    signature: "text: str -> label: str"
    lm:
      model: mock/mock
      api_base: http://127.0.0.1:{port}/v1
      price: {{input: 1, output: 2}}
      max_concurrency: 512
    metrics:
      correct: {{kind: boolean, role: goal}}
"""

_OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
"""Otherwise DSPy looks for a price list on the network."""

Child = subprocess.Popen[str]


def definitions(folder: Path, lm_port: int) -> Path:
    """The definitions file of the benchmark's program, on the mock language model."""
    path = folder / "ratchet.yaml"
    path.write_text(_DEFINITIONS.format(port=lm_port))
    return path


@contextmanager
def ratchet(config: Path, data: Path, url: str) -> Iterator[tuple[Child, int]]:
    """A Ratchet server and its port: `up` on SQLite, `serve` on PostgreSQL, whose tables are there."""
    data.mkdir()
    environment = {
        "RATCHET_DATA": str(data),
        "RATCHET_DATABASE_URL": url,
        "RATCHET_PORT": "0",
        "RATCHET_LOG_LEVEL": "warning",
    }
    verb = "up" if url.startswith("sqlite") else "serve"
    with process(RATCHET, verb, "--config", str(config), environment=environment) as server:
        yield server, _port(data / "server.json", server)


@contextmanager
def module(name: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Child]:
    """`python -m benchmarks.NAME ARGUMENTS`."""
    with process(sys.executable, "-m", f"benchmarks.{name}", *arguments, environment=environment) as child:
        yield child


@contextmanager
def process(*command: str, environment: Mapping[str, str] | None = None) -> Iterator[Child]:
    """A child process whose lines can be read and written."""
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **_OFFLINE, **(environment or {})},
    )
    try:
        yield child
    finally:
        child.terminate()
        child.communicate(timeout=30)


def line(child: Child) -> str:
    """The next line that a child prints. Raises: SystemExit when it has ended."""
    assert child.stdout is not None
    if found := child.stdout.readline():
        return found
    raise SystemExit(f"{child.args!r} ended with {child.wait()}")


def ask(child: Child, question: str) -> str:
    """What a child prints when it is given a line."""
    tell(child, question)
    return line(child)


def tell(child: Child, said: str) -> None:
    """Give a child a line."""
    assert child.stdin is not None
    child.stdin.write(f"{said}\n")
    child.stdin.flush()


def _port(note: Path, server: Child) -> int:
    """The port of a starting server, once it answers."""
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}")
        if note.exists():
            return int(json.loads(note.read_text())["url"].rpartition(":")[2])
        time.sleep(0.1)
    raise SystemExit("the server did not start within a minute")
