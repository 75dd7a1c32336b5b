"""Compile runs on both databases: one open per program, claimed once, fenced, cancelled, ended."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from experiments.errors import Conflict, NotFound, Stale
from experiments.quantities import SECOND
from learning.compile_runs import Budget, CompileRun, Event, Progress
from server.clock import new_id
from server.store import Store, compiles
from server.store.compiles import Claim, NumberedEvent
from tests.store.made import opened

pytestmark = pytest.mark.anyio

LEASE = 60 * SECOND


def run(**stated: Any) -> CompileRun:
    values: dict[str, Any] = {
        "compile_id": new_id(),
        "program": "triage",
        "state": "queued",
        "reason": "operator",
        "optimizer": "gepa",
        "champion": "base",
        "budget": Budget(cost=None, metric_calls=100, time=SECOND),
        "created_at": 1_000,
    }
    return CompileRun(**{**values, **stated})


def event(spent: int = 0, **progress: Any) -> Event:
    return Event(kind="progress", at=5, said="going on", progress=Progress(**progress), spent=spent)


async def claimed(store: Store, holder: str, lease: int) -> Claim:
    claim = await store.write(compiles.claim_run, holder, lease, 0)
    assert claim is not None
    return claim


async def begun(store: Store) -> Claim:
    await store.write(compiles.insert_run, run())
    return await claimed(store, "a", LEASE)


async def test_a_program_has_at_most_one_open_run_and_the_refusal_names_it(database_url: str) -> None:
    async with opened(database_url) as store:
        first = run()
        await store.write(compiles.insert_run, first)
        with pytest.raises(Conflict, match=first.compile_id):
            await store.write(compiles.insert_run, run())
        await store.write(compiles.insert_run, run(program="other"))
        await store.write(compiles.request_cancel, first.compile_id, 2_000)
        await store.write(compiles.insert_run, second := run(created_at=3_000))
        listed = await store.read(compiles.runs_page, program="triage")
        assert [found.compile_id for found in listed.items] == [second.compile_id, first.compile_id]
        assert await store.read(compiles.last_run, "triage") == second
        cancelled = await store.read(compiles.last_run, "triage", {"cancelled"})
        assert cancelled is not None
        assert cancelled.compile_id == first.compile_id


async def test_of_two_runners_one_gets_the_run(database_url: str) -> None:
    async with opened(database_url) as one:
        await one.write(compiles.insert_run, run())
        claims = await asyncio.gather(*(one.write(compiles.claim_run, f"runner {n}", LEASE, 9_000) for n in range(5)))
        won = [claim for claim in claims if claim]
        assert len(won) == 1
        assert (won[0].run.state, won[0].run.attempt, won[0].run.started_at) == ("running", 1, 9_000)
        assert not await one.read(compiles.free_run)


async def test_two_processes_that_claim_at_once_do_not_both_get_it(postgres_url: str) -> None:
    async with opened(postgres_url) as one, opened(postgres_url) as two:
        for _ in range(20):
            await one.write(compiles.insert_run, asked := run())
            claims = await asyncio.gather(
                one.write(compiles.claim_run, "one", LEASE, 0), two.write(compiles.claim_run, "two", LEASE, 0)
            )
            assert sum(claim is not None for claim in claims) == 1
            claim = next(claim for claim in claims if claim)
            await one.write(compiles.finish_run, claim, replace(asked, state="failed", finished_at=1))


async def test_a_runner_that_was_overtaken_can_write_nothing_any_more(database_url: str) -> None:
    async with opened(database_url) as store:
        await store.write(compiles.insert_run, run())
        slow = await claimed(store, "slow", 0)
        quick = await claimed(store, "quick", LEASE)
        assert (quick.run.compile_id, quick.run.attempt, quick.fence) == (slow.run.compile_id, 2, slow.fence + 1)
        ended = replace(slow.run, state="succeeded", finished_at=1)
        with pytest.raises(Stale):
            await store.write(compiles.renew_run, slow, LEASE, (NumberedEvent(1, event(7)),))
        with pytest.raises(Stale):
            await store.write(compiles.finish_run, slow, ended)
        with pytest.raises(Stale):
            await store.write(compiles.release_run, slow, after=0, failed=True)
        assert await store.read(compiles.events_after, quick.run.compile_id, 0) == []
        await store.write(compiles.finish_run, quick, replace(quick.run, state="failed", finished_at=2))
        with pytest.raises(Stale):
            await store.write(compiles.finish_run, quick, ended)
        assert (await store.read(compiles.compile_run, quick.run.compile_id)).state == "failed"


async def test_events_are_kept_once_however_often_they_are_told(database_url: str) -> None:
    async with opened(database_url) as store:
        claim = await begun(store)
        told = tuple(NumberedEvent(n, event(spent=n, iteration=n)) for n in range(1, 6))
        await store.write(compiles.renew_run, claim, LEASE, told[:3])
        after = await store.write(compiles.renew_run, claim, LEASE, told[1:])
        assert (after.spent, after.progress.iteration) == (5, 5)
        assert await store.read(compiles.events_after, claim.run.compile_id, 2) == list(told[2:])
        assert await store.read(compiles.last_event_number, claim.run.compile_id) == 5
        assert await store.read(compiles.spent_since, "triage", 0) == 5
        assert await store.read(compiles.spent_since, "triage", claim.run.created_at + 1) == 0


async def test_a_cancellation_and_a_report_do_not_undo_each_other(database_url: str) -> None:
    async with opened(database_url) as store:
        claim = await begun(store)
        await store.write(compiles.request_cancel, claim.run.compile_id, 5)
        told = await store.write(compiles.renew_run, claim, LEASE, (NumberedEvent(1, event(3)),), claim.run)
        assert told.cancel_requested
        ended = await store.write(compiles.finish_run, claim, replace(claim.run, state="cancelled", finished_at=6))
        assert (ended.cancel_requested, ended.spent) == (True, 3)
        with pytest.raises(Conflict, match="was cancelled"):
            await store.write(compiles.request_cancel, claim.run.compile_id, 7)


async def test_a_run_that_nobody_began_is_cancelled_at_once(sqlite_url: str) -> None:
    async with opened(sqlite_url) as store:
        await store.write(compiles.insert_run, asked := run())
        ended = await store.write(compiles.request_cancel, asked.compile_id, 5)
        assert (ended.state, ended.finished_at) == ("cancelled", 5)
        assert not await store.read(compiles.free_run)
        with pytest.raises(NotFound):
            await store.write(compiles.request_cancel, "nothing", 5)


async def test_a_released_run_is_claimed_again_and_an_uncounted_attempt_counts_for_nothing(sqlite_url: str) -> None:
    async with opened(sqlite_url) as store:
        claim = await begun(store)
        await store.write(compiles.release_run, claim, after=LEASE, failed=True)
        assert not await store.read(compiles.free_run)
        await store.write(compiles.release_runs)
        again = await claimed(store, "b", LEASE)
        assert again.run.attempt == 2
        await store.write(compiles.release_run, again, after=0, failed=False)
        assert (await claimed(store, "c", LEASE)).run.attempt == 2


async def test_what_a_run_told_of_itself_goes_when_it_is_old_and_what_came_of_it_stays(database_url: str) -> None:
    async with opened(database_url) as store:
        claim = await begun(store)
        told = (NumberedEvent(1, event(3)),)
        learnt = replace(claim.run, quality={"warnings": ["7 of 9 say 'my card 4711'"]})
        await store.write(compiles.renew_run, claim, LEASE, told, learnt)
        assert await store.write(compiles.purge_runs, 2**62) == 0, "it is under way"
        await store.write(compiles.finish_run, claim, replace(learnt, state="rejected", error="no", finished_at=50))
        assert await store.write(compiles.purge_runs, 50) == 0
        assert await store.write(compiles.purge_runs, 51) == 2
        assert await store.write(compiles.purge_runs, 51) == 0
        assert await store.read(compiles.events_after, claim.run.compile_id, 0) == []
        left = await store.read(compiles.compile_run, claim.run.compile_id)
        assert (left.state, left.error, left.spent, left.quality) == ("rejected", "no", 3, {})
