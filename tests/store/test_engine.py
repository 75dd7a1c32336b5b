"""Opening a database: which URLs, with what safety, and by whom."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from experiments.errors import Conflict, Invalid, Unavailable
from server.store import engine
from server.store.engine import Database
from server.store.store import Store, migrate_at, read_only
from tests.store.made import append, opened, prediction

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ratchet.db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///a.db?mode=ro",
        "sqlite+aiosqlite:///a.db",
        "postgres://host/db",
        "postgresql://host/db",
        "postgresql+asyncpg://host/db",
        "postgresql+psycopg://host",
        "mysql://host/db",
    ],
)
def test_any_other_url_is_refused_with_the_cure(url: str) -> None:
    with pytest.raises(Invalid, match="sqlite:///PATH"):
        Database(url)


async def test_sqlite_is_durable_and_has_one_writing_connection(sqlite_url: str) -> None:
    async with opened(sqlite_url) as store:
        with store.database.readers.connect() as reader:
            assert reader.exec_driver_sql("PRAGMA query_only").scalar() == 1
            assert reader.exec_driver_sql("PRAGMA wal_autocheckpoint").scalar() == 0
        settings = await store.write(
            lambda conn: [conn.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
        )
    assert settings == ["wal", 2]


def test_a_server_whose_default_is_not_durable_is_overruled(postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.writer.begin() as conn:
        name = conn.scalar(sa.text("SELECT current_database()"))
        conn.exec_driver_sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
    database.close()
    with database.writer.begin() as conn:
        assert conn.scalar(sa.text("SHOW synchronous_commit")) == "on"
    database.close()


def logged(store: Store) -> int:
    """Bytes in the WAL file."""
    return Path(f"{store.database.path}-wal").stat().st_size


async def test_reading_beside_a_server_leaves_its_log_alone(sqlite_url: str) -> None:
    async with opened(sqlite_url) as store:
        await append(store, prediction())
        size = logged(store)
        with read_only(sqlite_url) as conn:
            assert conn.scalar(sa.text("SELECT count(*) FROM predictions")) == 1
        assert logged(store) == size > 0


def test_reading_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="no database"), read_only(f"sqlite:///{tmp_path / 'none.db'}"):
        pass
    assert not list(tmp_path.iterdir())


async def test_a_second_server_on_the_same_file_is_refused_naming_the_first(sqlite_url: str) -> None:
    async with opened(sqlite_url):
        with pytest.raises(Conflict, match=rf"process {os.getpid()} on .* since \d{{4}}-"):
            Store.open(sqlite_url)
    async with opened(sqlite_url):
        pass


def test_a_lock_dies_with_its_holder(sqlite_url: str) -> None:
    program = f"from server.store import Store; held = Store.open({sqlite_url!r}); print('held', flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    assert holder.stdin
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(Conflict, match=f"process {holder.pid} "):
        Store.open(sqlite_url)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    holder.stdin.close()
    assert json.loads(Path(f"{Database(sqlite_url).path}.lock").read_text())["pid"] == holder.pid
    migrate_at(sqlite_url)  # takes the lock


def test_without_a_bundled_sqlite_the_one_of_python_is_used_with_a_warning(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(name: str) -> object:
        if name == "pysqlite3":
            raise ImportError(name)
        return imported(name)

    imported = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", without)
    monkeypatch.setattr(engine, "SAFE_SQLITE", (99, 0, 0))
    database = Database(sqlite_url)
    assert "install pysqlite3" in database.warnings[0]
    with database.writer.begin() as conn:
        assert conn.scalar(sa.text("SELECT 1")) == 1
    database.close()


def test_a_directory_that_cannot_be_made_is_refused_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Invalid, match="RATCHET_DATA"):
        Store.open(f"sqlite:///{tmp_path / 'file' / 'ratchet.db'}")


async def test_an_error_of_the_database_does_not_repeat_what_was_to_be_stored(database_url: str) -> None:
    async with opened(database_url) as store:
        with store.database.readers.connect() as conn, pytest.raises(DBAPIError) as refused:
            conn.execute(sa.text("SELECT * FROM nowhere WHERE x = :said"), {"said": "a customer's words"})
        assert "customer" not in str(refused.value)
        assert store.database.writer.hide_parameters


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        Store.open("postgresql+psycopg://nobody@127.0.0.1:1/none")


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "ratchet.db").write_text("something else entirely " * 100)
    with pytest.raises(Unavailable, match="not a database"):
        Store.open(f"sqlite:///{tmp_path / 'ratchet.db'}")


async def test_a_read_that_never_ends_is_ended(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_LONGEST_READ", 0.1)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    async with opened(sqlite_url) as store:
        with pytest.raises(Unavailable, match="interrupted"):
            await store.read(lambda conn: conn.exec_driver_sql(endless).scalar())
        assert await store.read(lambda conn: conn.exec_driver_sql("SELECT 1").scalar()) == 1
