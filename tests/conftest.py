"""What every suite shares: a PostgreSQL of our own, and a fresh migrated database on each kind."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.store.store import migrate_at
from tests.postgres import Postgres, running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL per test process, made with binaries that come in a package."""
    with running() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A fresh migrated PostgreSQL database; afterwards nobody may be connected to it."""
    url = postgres.create()
    yield url
    end = time.monotonic() + 5  # the server notices a closed connection a little later
    while (left := postgres.connections(url)) and time.monotonic() < end:
        time.sleep(0.02)
    postgres.drop(url)
    assert not left, f"{left} connections were left open"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A fresh migrated SQLite database."""
    url = f"sqlite:///{tmp_path / 'ratchet.db'}"
    migrate_at(url)
    return url


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each test that takes this runs twice: once on SQLite, once on PostgreSQL."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def anyio_backend() -> str:
    """Coroutine tests (`pytestmark = pytest.mark.anyio`) run on asyncio, as the server does."""
    return "asyncio"
