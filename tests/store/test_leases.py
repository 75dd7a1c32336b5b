"""Leases: one holder at a time by the database's clock, and no write by one who has lost his."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
import sqlalchemy as sa

from experiments.errors import Stale
from experiments.quantities import SECOND
from server.store import Connection, Store
from server.store.leases import (
    Lease,
    database_now,
    holder_of,
    release_lease,
    renew_lease,
    require_held,
    take_lease,
)
from server.store.upkeep import put_setting, setting
from tests.store.made import opened

LONG, SHORT = 600 * SECOND, SECOND // 10
Scenario = Callable[[Store], Awaitable[None]]


def on(url: str, scenario: Scenario) -> None:
    async def play() -> None:
        async with opened(url) as store:
            await scenario(store)

    asyncio.run(play())


async def taken(store: Store, holder: str, ttl: int = LONG) -> Lease:
    lease = await store.write(take_lease, "leader", holder, ttl)
    assert lease is not None
    return lease


def test_one_holds_it_and_the_fence_rises_with_every_change(database_url: str) -> None:
    async def scenario(store: Store) -> None:
        first = await taken(store, "one", SHORT)
        assert await store.write(take_lease, "leader", "two", LONG) is None
        assert await store.read(holder_of, "leader") == first
        await asyncio.sleep(0.15)
        assert await store.read(holder_of, "leader") is None
        second = await taken(store, "two")
        assert (first.fence, second.fence) == (1, 2)
        assert not await store.write(renew_lease, first, LONG)
        assert await store.write(renew_lease, second, LONG)

    on(database_url, scenario)


def test_a_lease_that_ran_out_is_kept_by_its_holder_if_nobody_came(database_url: str) -> None:
    async def scenario(store: Store) -> None:
        lease = await taken(store, "one", SHORT)
        await asyncio.sleep(0.15)
        assert await store.write(renew_lease, lease, LONG)
        assert await store.write(take_lease, "leader", "two", LONG) is None

    on(database_url, scenario)


def test_a_lease_let_go_is_free_at_once_and_its_fence_still_rises(database_url: str) -> None:
    async def scenario(store: Store) -> None:
        await store.write(release_lease, await taken(store, "one"))
        again = await taken(store, "one")
        assert again.fence == 2

    on(database_url, scenario)


def test_who_is_alone_need_not_wait_for_the_dead(database_url: str) -> None:
    async def scenario(store: Store) -> None:
        await taken(store, "dead")
        lease = await store.write(take_lease, "leader", "alone", LONG, alone=True)
        assert lease == Lease("leader", "alone", 2)

    on(database_url, scenario)


def test_who_lost_his_lease_writes_nothing_more(database_url: str) -> None:
    async def scenario(store: Store) -> None:
        old = store.under(await taken(store, "one", SHORT))
        await old.write(put_setting, "who", "one")
        await asyncio.sleep(0.15)
        new = store.under(await taken(store, "two"))
        await new.write(put_setting, "who", "two")
        with pytest.raises(Stale, match="another one acts now"):
            await old.write(put_setting, "who", "one")
        assert await store.read(setting, "who") == "two"

    on(database_url, scenario)


def test_a_holder_in_the_middle_of_a_write_keeps_its_lease_and_nobody_waits_for_it(postgres_url: str) -> None:
    """On PostgreSQL, where two processes write at a time: no one takes over between the check and the commit."""
    engine = sa.create_engine(postgres_url)

    async def scenario(store: Store) -> None:
        lease = await taken(store, "one", SHORT)
        with engine.begin() as other:
            require_held(other, lease)
            await asyncio.sleep(0.15)  # it has run out by now
            began = time.monotonic()
            assert await store.write(take_lease, "leader", "two", LONG) is None
            assert time.monotonic() - began < 5
        await taken(store, "two")

    try:
        on(postgres_url, scenario)
    finally:
        engine.dispose()


def test_time_is_the_databases_own(database_url: str) -> None:
    async def scenario(store: Store) -> None:
        def twice(conn: Connection) -> tuple[int, int]:
            first = database_now(conn)
            time.sleep(0.05)
            return first, database_now(conn)

        first, second = await store.write(twice)
        assert 40_000 < second - first < 60 * SECOND, "it goes on within one transaction"
        assert abs(first - time.time_ns() // 1000) < 60 * SECOND

    on(database_url, scenario)
