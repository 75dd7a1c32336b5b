"""The one clock: it never goes back, neither while a process runs nor from one process to the next."""

import asyncio
import time

import pytest

from experiments.quantities import SECOND
from server import clock
from server.app import opened
from server.settings import Settings
from server.store.blocks import keep_evidence
from server.store.store import Store


def test_a_clock_set_back_stands_still_until_the_wall_has_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = iter([10, 12, 3, 11, 12, 13])
    monkeypatch.setattr(time, "time_ns", lambda: next(wall) * 1000)
    now = clock._never_back()
    assert [now() for _ in range(6)] == [10, 12, 12, 12, 12, 13]


def test_ids_are_in_the_order_of_their_making() -> None:
    made = [clock.new_id() for _ in range(1000)]
    assert made == sorted(made)


@pytest.mark.parametrize(("set_back", "expected"), [(3600 * SECOND, 0), (-5 * SECOND, 5 * SECOND)])
def test_no_fact_is_dated_into_what_an_earlier_process_has_folded(
    database_url: str, set_back: int, expected: int
) -> None:
    """The wall clock was set back by an hour, or not at all, while no server ran."""
    folded = 1_000_000 * SECOND

    async def play() -> int:
        store = await asyncio.to_thread(Store.open, database_url)
        await store.write(keep_evidence, "an experiment", {}, blocks=7, horizon=folded, before=None)
        await store.close()
        settings = Settings(database_url=database_url, log_level="error")
        async with opened(settings, now=lambda: folded - set_back) as ratchet:
            return ratchet.now()

    assert asyncio.run(play()) == folded + expected
