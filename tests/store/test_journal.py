"""Group commit: what is acknowledged is stored, what is refused fails alone, what is full says so."""

import asyncio
import json

import pytest
import sqlalchemy as sa

from experiments.errors import Busy, Conflict, RowRefused, Unavailable
from server.store.facts import example, scorable_predictions
from server.store.store import Store, read_only
from server.store.tables import contents, outcomes, predictions
from tests.store.made import append, content, opened, outcome, prediction, remark

pytestmark = pytest.mark.anyio


def stored(url: str) -> set[str]:
    """The ids of the predictions on disk, read through another connection."""
    with read_only(url) as conn:
        return set(conn.scalars(sa.select(predictions.c.prediction_id)))


async def test_what_is_acknowledged_is_on_disk(database_url: str) -> None:
    made = [prediction() for _ in range(50)]
    async with opened(database_url) as store:
        await asyncio.gather(*(append(store, one) for one in made))
        assert stored(database_url) == {one.prediction_id for one in made}


async def test_a_prediction_comes_back_as_it_was_stored(database_url: str) -> None:
    made = prediction(experiment_id=None, variant=None, status="error", error="lm-failed", cost=None, unit_hash="ü")
    kept = content(made.prediction_id, input={"ticket": 'quote " \0 ü'}, output=None, metadata={"a": [1, None, 0.1]})
    async with opened(database_url) as store:
        with store.journal.reserve() as slot:
            await slot.append(made, kept)
        found = await store.read(example, made.prediction_id)
    assert found is not None
    assert (found.prediction, found.content, found.outcomes) == (made, kept, [])


async def test_a_prediction_appended_twice_is_there_once_as_it_was_first(database_url: str) -> None:
    made = prediction(latency=1)
    async with opened(database_url) as store:
        await append(store, made)
        await append(store, prediction(prediction_id=made.prediction_id, latency=2))
        found = await store.read(example, made.prediction_id)
    assert found is not None
    assert found.prediction == made


async def test_many_clients_share_a_commit(database_url: str) -> None:
    groups: list[int] = []
    async with opened(database_url, observe=lambda rows, _: groups.append(rows)) as store:
        await asyncio.gather(*(append(store, prediction()) for _ in range(200)))
    assert sum(groups) == 200
    assert len(groups) < 20


@pytest.mark.parametrize("refused", [{"latency": 2**63}, {"status": "\ud800"}, {"program": None}])
async def test_a_row_the_database_refuses_fails_alone(database_url: str, refused: dict[str, object]) -> None:
    good = [prediction() for _ in range(20)]
    bad = prediction(**refused)
    async with opened(database_url) as store:
        results = await asyncio.gather(
            *(append(store, one) for one in [*good[:9], bad, *good[9:]]), return_exceptions=True
        )
        assert store.journal.trouble is None
    assert [type(r) for r in results if r] == [RowRefused]
    assert isinstance(results[9], RowRefused)
    assert stored(database_url) == {one.prediction_id for one in good}


async def test_text_with_a_nul_or_too_long_for_an_index_fails_alone_on_postgresql(postgres_url: str) -> None:
    good = prediction()
    bad = [prediction(unit_hash="a\0b"), prediction(prediction_id="".join(map(chr, range(256, 6000))))]
    async with opened(postgres_url) as store:
        results = await asyncio.gather(*(append(store, one) for one in [bad[0], good, bad[1]]), return_exceptions=True)
    assert [type(r) for r in results] == [RowRefused, type(None), RowRefused]
    assert stored(postgres_url) == {good.prediction_id}


async def test_a_refused_content_takes_its_prediction_with_it(database_url: str) -> None:
    made = prediction()
    async with opened(database_url) as store:
        with store.journal.reserve() as slot, pytest.raises(RowRefused):
            await slot.append(made, content(made.prediction_id, unit="\ud800"))
    assert stored(database_url) == set()


async def test_an_error_detail_of_any_text_is_kept_escaped(database_url: str) -> None:
    made = prediction()
    async with opened(database_url) as store:
        with store.journal.reserve() as slot:
            await slot.append(made, content(made.prediction_id, error_detail="a\0b\ud800"))
        found = await store.read(example, made.prediction_id)
    assert found is not None
    assert found.content is not None
    assert found.content.error_detail == r"a\x00b\ud800"


async def test_a_full_journal_says_so_before_any_work_and_has_room_again_after_it(database_url: str) -> None:
    async with opened(database_url, room=2) as store:
        with store.journal.reserve(2) as slot:
            with pytest.raises(Busy) as caught:
                store.journal.reserve()
            assert caught.value.retry_after > 0
            await slot.append(prediction())
            store.journal.reserve().release()
        store.journal.reserve(2).release()
        with pytest.raises(Busy):
            store.journal.reserve(3)


async def test_a_place_is_free_again_after_a_refused_row_and_an_impatient_caller(database_url: str) -> None:
    async with opened(database_url, room=1) as store:
        with store.journal.reserve() as slot, pytest.raises(RowRefused):
            await slot.append(prediction(latency=2**63))
        with store.journal.reserve() as slot, pytest.raises(TimeoutError):
            await asyncio.wait_for(slot.append(prediction(prediction_id="impatient")), 0)
        await store.write(lambda conn: conn.scalar(sa.text("SELECT 1")))
        store.journal.reserve().release()


async def test_a_caller_that_stops_waiting_changes_nothing(database_url: str) -> None:
    made = prediction()
    async with opened(database_url) as store:
        task = asyncio.create_task(append(store, made))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert stored(database_url) == {made.prediction_id}


async def test_closing_commits_what_is_queued_and_takes_no_more(database_url: str) -> None:
    made = [prediction() for _ in range(300)]
    store = Store.open(database_url)
    tasks = [asyncio.create_task(append(store, one)) for one in made]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*tasks)
    assert stored(database_url) == {one.prediction_id for one in made}
    with pytest.raises(Unavailable):
        await append(store, prediction())


async def test_a_job_that_fails_takes_back_its_own_writes_only(database_url: str) -> None:
    def fail(conn: sa.Connection) -> None:
        conn.execute(
            outcomes.insert().values(
                prediction_id="p", metric="m", source="s", value=1, digest="d", late=False, received_at=1
            )
        )
        raise Conflict("no")

    made = prediction()
    async with opened(database_url) as store:
        failed, _, answer = await asyncio.gather(
            store.write(fail), append(store, made), store.write(lambda _conn: "done"), return_exceptions=True
        )
        assert await store.read(lambda conn: conn.scalar(sa.select(sa.func.count()).select_from(outcomes))) == 0
    assert isinstance(failed, Conflict)
    assert answer == "done"
    assert stored(database_url) == {made.prediction_id}


async def test_a_job_that_breaks_a_constraint_fails_alone(database_url: str) -> None:
    def twice(conn: sa.Connection) -> None:
        for _ in range(2):
            conn.execute(contents.insert().values(prediction_id="p", input="{}", metadata="{}"))

    async with opened(database_url) as store:
        failed, answer = await asyncio.gather(
            store.write(twice), store.write(lambda _conn: "done"), return_exceptions=True
        )
    assert isinstance(failed, RowRefused)
    assert answer == "done"


async def test_readers_cannot_write(database_url: str) -> None:
    async with opened(database_url) as store:
        with pytest.raises(Exception, match=r"(?i)read.?only|query_only"):
            await store.read(lambda conn: conn.execute(outcomes.delete()))


async def test_a_score_needs_the_program_variant_and_output(database_url: str) -> None:
    made = prediction()
    async with opened(database_url) as store:
        await append(store, made)
        found = await store.read(scorable_predictions, [made.prediction_id, "unknown"])
    assert list(found) == [made.prediction_id]
    assert found[made.prediction_id].output == {"category": "bug"}
    assert json.loads(json.dumps(found[made.prediction_id].output)) == {"category": "bug"}


async def test_outcomes_are_judged_by_what_is_there_already(database_url: str) -> None:
    async with opened(database_url) as store:
        record = store.journal.record
        assert await record([outcome(value=1.0)]) == ["accepted"]
        assert await record([outcome(value=1.0, received_at=9_000)]) == ["duplicate"]
        assert await record([outcome(value=0.0)]) == ["conflict"]
        assert await record([outcome(value=0.0)]) == ["conflict"]
        assert await record([outcome(value=1.0, late=True)]) == ["duplicate"]
        assert await record([outcome(metric="rating", value=3.0, late=True)]) == ["late"]
        assert await record([outcome(metric="rating", value=3.0, late=True)]) == ["duplicate"]
        assert await record([outcome(metric="rating", value=4.0, late=True)]) == ["conflict"]
        assert await record([outcome(source="judge", value=0.0)]) == ["accepted"]
        assert await record([], [remark()]) == ["accepted"]
        assert await record([], [remark()]) == ["duplicate"]
        assert await record([outcome("q")], [remark("q")]) == ["accepted", "accepted"]


async def test_outcomes_of_one_group_are_judged_in_order(database_url: str) -> None:
    async with opened(database_url) as store:
        values = [1.0, 1.0, 0.0, 1.0]
        assert await store.journal.record([outcome(value=value) for value in values], [remark(), remark()]) == [
            "accepted",
            "duplicate",
            "conflict",
            "duplicate",
            "accepted",
            "duplicate",
        ]
        several = await asyncio.gather(*(store.journal.record([outcome("other", value)]) for value in values))
        assert several == [["accepted"], ["duplicate"], ["conflict"], ["duplicate"]]


async def test_an_outcome_the_database_refuses_leaves_the_others_standing(database_url: str) -> None:
    async with opened(database_url) as store:
        bad = store.journal.record([outcome("a"), outcome("b", received_at=2**63)])
        good = store.journal.record([outcome("c")])
        first, second = await asyncio.gather(bad, good, return_exceptions=True)
        assert isinstance(first, RowRefused)
        assert second == ["accepted"]
        assert await store.journal.record([outcome("a")]) == ["accepted"]


async def test_two_servers_on_postgresql_agree_on_which_outcome_stands(postgres_url: str) -> None:
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        ids = [f"p{i}" for i in range(200)]
        ours = [one.journal.record([outcome(i, 1.0)], [remark(i)]) for i in ids]
        theirs = [other.journal.record([outcome(i, float(n % 2))], [remark(i)]) for n, i in enumerate(reversed(ids))]
        told = await asyncio.gather(*ours, *theirs)
        standing = sa.select(outcomes.c.prediction_id, outcomes.c.value)
        stored_values = await one.read(lambda conn: {row[0]: row[1] for row in conn.execute(standing)})
    mine = dict(zip(ids, told[:200], strict=True))
    yours = dict(zip(reversed(ids), told[200:], strict=True))
    for n, i in enumerate(reversed(ids)):
        sent = float(n % 2)
        accepted = [who for who in (mine[i], yours[i]) if who[0] == "accepted"]
        other_way = "duplicate" if sent == 1.0 else "conflict"
        assert len(accepted) == 1
        assert sorted([mine[i][0], yours[i][0]]) == sorted(["accepted", other_way])
        assert stored_values[i] == (1.0 if mine[i][0] == "accepted" else sent)
        assert sorted([mine[i][1], yours[i][1]]) == ["accepted", "duplicate"]
