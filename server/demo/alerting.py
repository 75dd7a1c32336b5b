"""A Prometheus of the demo's own, where `RATCHET_DEMO_PROMETHEUS=1` asks for it: what an operator would be woken by.

It scrapes the demo's server once a second and evaluates the rules of `monitoring/prometheus`, from a copy in a hurry:
an alert that is over is not kept firing for a quarter of an hour, but for two seconds.
"""

import asyncio
import contextlib
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec

from server.demo.screen import Screen

ASKED_FOR = "RATCHET_DEMO_PROMETHEUS"
RULES = Path(__file__).parents[2] / "monitoring" / "prometheus" / "rules.yaml"
DRIFT = "RatchetDriftAlarm"
_HURRIED = {"interval: 30s": "interval: 1s", "keep_firing_for: 15m": "keep_firing_for: 2s"}
_CONFIGURATION = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: ratchet
    static_configs: [{{targets: ["{target}"]}}]
"""
_LOOK_EVERY = 0.5


class Alerts(msgspec.Struct, frozen=True):
    """Names of the alerts that fired, and of those that were over again, each in the order in which it happened."""

    fired: list[str]
    resolved: list[str]


class Prometheus:
    """One that runs from `open` to `close`, its files beside the demo's; the screen is told of every alert."""

    def __init__(self, data: Path, screen: Screen) -> None:
        self.url = ""
        self._folder = data / "prometheus"
        self._screen = screen
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self._firing: set[str] = set()
        self._fired: list[str] = []
        self._resolved: list[str] = []

    async def open(self, scraped: str) -> None:
        """Begin to scrape the server at this URL. Where Prometheus is not installed, say so, and do nothing."""
        program = shutil.which("prometheus")
        if program is None:
            self._screen.told(f"{ASKED_FOR} is set, but no `prometheus` is on the PATH: the demo goes on without")
            return
        self.url = f"http://127.0.0.1:{_free_port()}"
        self._write(scraped)
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                program,
                f"--config.file={self._folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
                "--log.level=warn",
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._screen.told(f"a Prometheus scrapes it every second: {self.url}/alerts")
        self._screen.told(
            "with the rules of monitoring/prometheus, but an alert that is over stays for 2 s, not 15 min"
        )
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """End it by its process id, and wait for that."""
        if self._watching is not None:
            self._watching.cancel()
        if self._process is not None:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.terminate()
            await self._process.wait()

    @property
    def alerts(self) -> Alerts | None:
        """What was seen; None where there is no Prometheus."""
        return Alerts(list(self._fired), list(self._resolved)) if self.url else None

    async def calm(self) -> bool | None:
        """True while the drift's alert does not fire, as `Play` waits for things; else None."""
        ended = self._process is None or self._process.returncode is not None
        return True if ended or DRIFT not in self._firing else None

    def _write(self, scraped: str) -> None:
        """Its configuration, and the rules in a hurry."""
        self._folder.mkdir(parents=True, exist_ok=True)
        rules = RULES.read_text(encoding="utf-8")
        for production, here in _HURRIED.items():
            rules = rules.replace(production, here)
        (self._folder / "rules.yaml").write_text(rules, encoding="utf-8")
        target = scraped.removeprefix("http://")
        (self._folder / "prometheus.yaml").write_text(_CONFIGURATION.format(target=target), encoding="utf-8")

    async def _watch(self) -> None:
        """Look at the alerts until cancelled. One that does not answer yet is asked again."""
        async with httpx.AsyncClient(base_url=self.url, timeout=5, trust_env=False) as http:
            while self._process is not None and self._process.returncode is None:
                with contextlib.suppress(httpx.HTTPError):
                    answer = (await http.get("/api/v1/alerts")).raise_for_status()
                    self._compare(answer.json()["data"]["alerts"])
                await asyncio.sleep(_LOOK_EVERY)
        log = (self._folder / "prometheus.log").read_text(errors="replace").strip().splitlines()[-1:]
        self._screen.told(f"Prometheus has ended by itself: {' '.join(log)}")

    def _compare(self, alerts: list[dict[str, Any]]) -> None:
        """Tell what fires now and did not before, and what is over."""
        firing = {
            alert["labels"]["alertname"]: alert["annotations"].get("summary", "")
            for alert in alerts
            if alert["state"] == "firing"
        }
        for name in firing.keys() - self._firing:
            self._screen.told(f"Prometheus: {name} is FIRING. {firing[name]}")
            _remember(name, self._fired)
        for name in self._firing - firing.keys():
            self._screen.told(f"Prometheus: {name} is resolved")
            _remember(name, self._resolved)
        self._firing = set(firing)


def asked_for(environ: Mapping[str, str]) -> bool:
    """Whether the variable asks for one."""
    return environ.get(ASKED_FOR, "").strip() not in ("", "0")


def _remember(name: str, names: list[str]) -> None:
    if name not in names:
        names.append(name)


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])
