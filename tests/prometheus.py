"""A real Prometheus for tests: Debian's package, started on a free port, ended by its process id.

Where it is not installed the tests that need it skip, and say so; `REQUIRE_PROMETHEUS=1` turns that into a failure, and
`.ci/run` sets it once it has installed the package.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest


def installed(program: str) -> str:
    """Where `prometheus` or `promtool` is; the test skips, or fails where CI forbids that, if it is nowhere."""
    if found := shutil.which(program):
        return found
    cure = f"no {program} on this machine: `apt-get install prometheus`"
    if os.environ.get("REQUIRE_PROMETHEUS"):
        pytest.fail(cure)
    pytest.skip(cure)


def promtool(*arguments: str | Path, given: bytes = b"") -> str:
    """What promtool says when all is well; else the test fails with what it found."""
    done = subprocess.run([installed("promtool"), *arguments], check=False, capture_output=True, input=given)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


class Prometheus:
    """One that is up."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def ask(self, path: str, **parameters: Any) -> Any:
        """The data of an answer. Raises: AssertionError with Prometheus's own words when it refuses."""
        answer = self._http.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, f"{parameters}: {answer.text}"
        return answer.json()["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression has now."""
        data = self.ask("query", query=expression)
        return [{"metric": {}, "value": data["result"]}] if data["resultType"] == "scalar" else data["result"]


@contextmanager
def prometheus(directory: Path, configuration: str) -> Iterator[Prometheus]:
    """A Prometheus with this configuration, from when it is ready to the end of the block."""
    file, port = directory / "prometheus.yaml", _free_port()
    file.write_text(configuration)
    command = [
        installed("prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    ]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _await(f"http://127.0.0.1:{port}/-/ready", process, directory / "prometheus.log")
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http:
                yield Prometheus(http)
        finally:
            process.terminate()
            process.wait(30)


def _await(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"Prometheus did not start:\n{log.read_text()}")


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])
