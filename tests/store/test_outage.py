"""The database goes away and comes back: nothing acknowledged is lost, nobody waits for ever, no restart is needed."""

import asyncio
import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from experiments.errors import Unavailable
from server.store import writer
from server.store.store import Store
from server.store.tables import predictions
from server.store.upkeep import put_setting
from tests.postgres import Postgres
from tests.store.made import opened, prediction

pytestmark = pytest.mark.anyio


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that must come about."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


async def client(store: Store, acknowledged: set[str], stop: asyncio.Event) -> None:
    while not stop.is_set():
        made = prediction()
        try:
            with store.journal.reserve() as slot:
                await slot.append(made)
            acknowledged.add(made.prediction_id)
        except Unavailable:
            await asyncio.sleep(0.02)


async def test_postgresql_crashes_under_load_and_nothing_acknowledged_is_lost(
    postgres: Postgres, postgres_url: str
) -> None:
    acknowledged: set[str] = set()
    stop = asyncio.Event()
    async with opened(postgres_url) as store:
        clients = [asyncio.create_task(client(store, acknowledged, stop)) for _ in range(16)]
        try:
            for _ in range(2):
                before = len(acknowledged)
                await until(lambda: len(acknowledged) > before + 100)  # noqa: B023 -- awaited in this very round
                await asyncio.to_thread(postgres.stop)
                await until(lambda: store.journal.trouble is not None)
                await asyncio.to_thread(postgres.start)
                await until(lambda: store.journal.trouble is None)
        finally:
            stop.set()
            await asyncio.gather(*clients)
        found = await store.read(lambda conn: list(conn.scalars(sa.select(predictions.c.prediction_id))))
    assert acknowledged <= set(found)
    assert len(found) == len(set(found))


async def test_while_postgresql_is_down_work_is_refused_before_it_begins(
    postgres: Postgres, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PATIENCE", 0.3)
    async with opened(postgres_url) as store:
        slot = store.journal.reserve()
        await asyncio.to_thread(postgres.stop)
        try:
            await until(lambda: store.journal.trouble is not None)  # noticed although nobody wrote
            with pytest.raises(Unavailable):
                store.journal.reserve()
            with pytest.raises(Unavailable):
                await store.write(put_setting, "k", "v")
            with pytest.raises(Unavailable):
                await store.read(lambda conn: conn.scalar(sa.text("SELECT 1")))
            with slot, pytest.raises(Unavailable):
                await slot.append(prediction())
        finally:
            await asyncio.to_thread(postgres.start)
        await until(lambda: store.journal.trouble is None)
        assert await store.read(lambda conn: conn.scalar(sa.text("SELECT 1"))) == 1
        await store.write(put_setting, "k", "v")


async def test_what_waits_for_a_database_that_comes_back_in_time_is_stored(
    postgres: Postgres, postgres_url: str
) -> None:
    async with opened(postgres_url) as store:
        made = [prediction() for _ in range(10)]
        slot = store.journal.reserve(10)
        await asyncio.to_thread(postgres.stop)
        waiting = [asyncio.create_task(slot.append(one)) for one in made]
        await asyncio.sleep(0)
        await asyncio.to_thread(postgres.start)
        await asyncio.gather(*waiting)
        found = await store.read(lambda conn: set(conn.scalars(sa.select(predictions.c.prediction_id))))
    assert found == {one.prediction_id for one in made}


@pytest.mark.parametrize("committed", [True, False])
async def test_after_a_commit_of_unknown_end_rows_are_sent_again_and_jobs_are_not(
    database_url: str, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    commit = sa.Connection.commit
    broken: list[bool] = []

    def torn(conn: sa.Connection) -> None:
        if not broken and conn.engine is store.database.writer:
            broken.append(True)
            if committed:
                commit(conn)
            raise ConnectionResetError("torn")
        commit(conn)

    async with opened(database_url) as store:
        made = prediction()
        monkeypatch.setattr(sa.Connection, "commit", torn)
        with store.journal.reserve() as slot:
            told = await asyncio.gather(slot.append(made), store.write(put_setting, "k", "v"), return_exceptions=True)
        found = await store.read(lambda conn: list(conn.scalars(sa.select(predictions.c.prediction_id))))
    assert broken
    assert told[0] is None
    assert isinstance(told[1], Unavailable)
    assert found == [made.prediction_id]


async def test_a_full_disk_is_an_outage_that_ends_when_there_is_room(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PATIENCE", 0.3)
    async with opened(sqlite_url) as store:
        pages = await store.write(lambda conn: conn.exec_driver_sql("PRAGMA page_count").scalar())
        limit = [pages]

        @sa.event.listens_for(store.database.writer, "begin")
        def limited(conn: sa.Connection) -> None:
            conn.exec_driver_sql(f"PRAGMA max_page_count = {limit[0]}")

        huge = "x" * 100_000
        with store.journal.reserve() as slot, pytest.raises(Unavailable, match="full"):
            await slot.append(prediction(unit_hash=huge))
        assert store.journal.trouble is not None or store.journal.queued == 0
        limit[0] = 1_000_000
        await until(lambda: store.journal.trouble is None)
        with store.journal.reserve() as slot:
            await slot.append(prediction(unit_hash=huge))
