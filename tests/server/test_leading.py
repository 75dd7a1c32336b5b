"""Leading, in one process: two that stand for it on one database, each with a job that counts."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from experiments.errors import Stale
from experiments.quantities import SECOND
from server.jobs import Job, run_due
from server.leading import Leadership
from server.ratchet import Ratchet
from server.store.upkeep import last_finished, put_setting, setting
from tests.application import application

Scenario = Callable[[Leadership, Leadership], Awaitable[None]]
ON_MARS = 24 * 3600 * SECOND


def between(url: str, scenario: Scenario, *, lease: int = SECOND) -> None:
    async def play() -> None:
        async with application(url, embedded=False) as one, application(url, embedded=False) as two:
            await scenario(*(Leadership(_with_lease(app.ratchet, lease)) for app in (one, two)))

    asyncio.run(play())


def _with_lease(ratchet: Ratchet, lease: int) -> Ratchet:
    return msgspec.structs.replace(ratchet, settings=msgspec.structs.replace(ratchet.settings, lease=lease))


def counting(done: list[str], every: int = ON_MARS) -> Job:
    async def job(_ratchet: Ratchet) -> None:
        done.append("done")

    return Job("count", job, every)


def test_only_the_leader_does_a_job_and_each_period_once(postgres_url: str) -> None:
    async def scenario(one: Leadership, two: Leadership) -> None:
        done: list[str] = []
        await one.look()
        await two.look()
        assert not await run_due(two, counting(done))
        assert await run_due(one, counting(done))
        assert not await run_due(one, counting(done)), "the same period"
        await one.resign()
        await two.look()
        assert one.acting is None
        assert not await run_due(two, counting(done)), "another process did this period"
        assert await run_due(two, counting(done, every=1))
        assert done == ["done", "done"]

    between(postgres_url, scenario)


def test_a_job_under_way_when_the_lease_is_lost_writes_nothing_more(postgres_url: str) -> None:
    async def scenario(one: Leadership, two: Leadership) -> None:
        async def long(ratchet: Ratchet) -> None:
            await ratchet.store.write(put_setting, "who", "one, before")
            await asyncio.sleep(1.1)  # as if suspended for longer than the lease
            await two.look()
            assert two.acting is not None
            with pytest.raises(Stale):
                await ratchet.store.write(put_setting, "who", "one, after")
            raise Stale("as it would have ended")

        await one.look()
        assert not await run_due(one, Job("long", long, 1))
        assert two.acting is not None
        assert await two.acting.store.read(setting, "who") == "one, before"
        assert "long" not in await two.acting.store.read(last_finished)

    between(postgres_url, scenario)


def test_who_could_not_renew_in_time_stops_by_itself(postgres_url: str) -> None:
    async def scenario(one: Leadership, _two: Leadership) -> None:
        await one.look()
        assert one.acting is not None
        await asyncio.sleep(1.1)
        assert one.acting is None
        await one.look()
        assert one.acting is not None, "nobody has taken it"

    between(postgres_url, scenario)


def test_a_failing_job_is_tried_again_in_the_next_period(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url, embedded=False) as app:
            leadership = Leadership(app.ratchet)
            await leadership.look()

            async def broken(_ratchet: Ratchet) -> None:
                raise RuntimeError("a bug")

            assert not await run_due(leadership, Job("broken", broken, 1))
            assert await run_due(leadership, counting([], every=1))

    asyncio.run(play())
