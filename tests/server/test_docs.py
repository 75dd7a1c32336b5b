"""The documentation page: complete without any other host, and safe to open."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.application import application
from tests.servers import RunningServer

CHROMIUM = shutil.which("chromium")


@pytest.mark.anyio
async def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing_inline(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        page = await app.http.get("/docs")
        policy = page.headers["content-security-policy"]
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert "*" not in policy
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style", page.text)
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(loaded) >= 3
        for address in loaded:
            assert address.startswith(("/", "data:")), address
            assert not address.startswith("//"), address
            if address.startswith("/"):
                part = await app.http.get(address)
                assert part.status_code == 200, address
                assert part.headers.get("x-content-type-options") == "nosniff" or address == "/openapi.json"


@pytest.mark.anyio
async def test_the_front_door_leads_to_the_page(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        assert (await app.http.get("/")).headers["location"] == "/docs"
        assert (await app.http.get("/docs/openapi.json")).json() == (await app.http.get("/openapi.json")).json()
        assert (await app.http.get("/docs/../server/auth.py")).status_code == 404


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_shows_the_routes_without_a_complaint(server: RunningServer, tmp_path: Path) -> None:
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    told = subprocess.run(
        [
            str(CHROMIUM),
            *arguments,
            "--enable-logging=stderr",
            "--virtual-time-budget=20000",
            "--dump-dom",
            f"{server.url}/docs",
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "/v1/experiments/{experiment_id}/start" in re.sub(r"<[^>]*>|\u200b", "", told.stdout)
    assert [line for line in told.stderr.splitlines() if "CONSOLE" in line] == []
