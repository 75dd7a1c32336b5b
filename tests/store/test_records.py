"""Definitions, variants, routings, experiments, decisions, keys: what compare-and-set and unique keys promise."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from experiments.assignment import Routing
from experiments.errors import Conflict, Invalid, NotFound, Stale
from experiments.experiment import Decision, Experiment
from experiments.settings import ExperimentOptions
from learning.definitions import LmSettings, ProgramDefinition
from learning.variants import Variant
from server.store import definitions, idempotency, keys, upkeep
from server.store import experiments as store
from server.store.appending import Entry, append
from server.store.engine import Database
from server.store.idempotency import KEPT, Answered, Completion, Fresh, InFlight, OtherBody
from server.store.keys import Key
from server.store.routings import append_routing, routing_in_force, routings_in_force, splits_by_epoch, traffic_mark
from tests.store.made import opened, prediction


@pytest.fixture
def conn(database_url: str) -> Iterator[sa.Connection]:
    """The writing connection, in a transaction."""
    database = Database(database_url)
    with database.writer.begin() as connection:
        yield connection
    database.close()


def experiment(number: int = 1, **stated: Any) -> Experiment:
    values: dict[str, Any] = {
        "experiment_id": f"e{number:03}",
        "program": "triage",
        "state": "draft",
        "champion": "base",
        "challengers": ("new",),
        "goal": "correct",
        "guardrails": (),
        "metrics": {},
        "settings": ExperimentOptions().resolve(),
        "promotion": "auto",
        "split": {"base": 0.9, "new": 0.1},
        "deadline": 30_000_000,
        "created_at": number // 2,  # two at a time share a moment
    }
    return Experiment(**{**values, **stated})


def routing(epoch: int, program: str = "triage", **stated: Any) -> Routing:
    values: dict[str, Any] = {"champion": "base", "reason": "test", "created_at": epoch}
    return Routing(program=program, epoch=epoch, **{**values, **stated})


def variant(name: str, content: str, **stated: Any) -> Variant:
    values: dict[str, Any] = {
        "id": f"hash of {content}",
        "program": "triage",
        "name": name,
        "parent": None,
        "origin": "upload",
        "module": "predict",
        "signature": "a -> b",
        "fingerprint": "f",
        "state": {},
        "lm": LmSettings(model="sim/triage"),
        "created_at": 1,
    }
    known = {field: value for field, value in values.items() if field in Variant.__struct_fields__}
    return Variant(**{**known, **stated})


def test_traffic_changes_one_epoch_at_a_time(conn: sa.Connection) -> None:
    assert routing_in_force(conn, "triage") is None
    append_routing(conn, routing(1))
    append_routing(conn, routing(2, experiment_id="e", split={"base": 0.9, "new": 0.1}))
    append_routing(conn, routing(1, program="other"))
    for late in (2, 1, 4, 0):
        with pytest.raises(Stale):
            append_routing(conn, routing(late, champion="new"))
    append_routing(conn, routing(3, experiment_id="e", split={"base": 0.5, "new": 0.5}))
    assert {name: found.epoch for name, found in routings_in_force(conn).items()} == {"triage": 3, "other": 1}
    assert splits_by_epoch(conn, "e") == {2: {"base": 0.9, "new": 0.1}, 3: {"base": 0.5, "new": 0.5}}


async def change_everywhere(url: str, times: int) -> list[object]:
    """As many processes as `times` try to make the same change at once."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(opened(url)) for _ in range(times)]
        changes = (one.write(append_routing, routing(1, champion=f"by {n}")) for n, one in enumerate(servers))
        return list(await asyncio.gather(*changes, return_exceptions=True))


@pytest.mark.anyio
async def test_of_many_servers_changing_traffic_at_once_one_wins(postgres_url: str) -> None:
    told = await change_everywhere(postgres_url, 5)
    assert sorted(type(answer).__name__ for answer in told) == ["NoneType", *["Stale"] * 4]


def test_the_traffic_mark_changes_with_every_change(conn: sa.Connection) -> None:
    marks = [traffic_mark(conn)]
    append_routing(conn, routing(1))
    marks.append(traffic_mark(conn))
    definitions.append_definitions(conn, "programs: {}", 5, "ada", after=0)
    marks.append(traffic_mark(conn))
    assert len(set(marks)) == 3
    assert traffic_mark(conn) == marks[-1]


def test_definitions_are_versions_and_the_slower_of_two_authors_is_told(conn: sa.Connection) -> None:
    assert definitions.latest_definitions(conn) is None
    definitions.append_definitions(conn, "one", 5, "ada", after=0)
    with pytest.raises(Stale):
        definitions.append_definitions(conn, "other", 6, None, after=0)
    assert definitions.append_definitions(conn, "two", 7, None, after=1) == definitions.latest_definitions(conn)


def test_a_program_keeps_its_birthday_when_it_is_redefined(conn: sa.Connection) -> None:
    first = ProgramDefinition(signature="a -> b", lm="sim/x")
    second = ProgramDefinition(signature="a -> c", lm="sim/x", experiments=ExperimentOptions(alpha=0.1))
    definitions.put_program(conn, "triage", first, 5)
    definitions.put_program(conn, "triage", second, 9)
    found = definitions.stored_program(conn, "triage")
    assert (found.definition, found.created_at) == (second, 5)
    with pytest.raises(NotFound, match="did you mean 'triage'"):
        definitions.stored_program(conn, "triag")


def test_a_variant_never_changes(conn: sa.Connection) -> None:
    base = variant("base", "one")
    assert definitions.add_variant(conn, base) == base
    assert definitions.add_variant(conn, variant("base", "one", created_at=9)) == base
    with pytest.raises(Conflict, match="never change"):
        definitions.add_variant(conn, variant("base", "two"))
    with pytest.raises(Conflict, match="already, as 'base'"):
        definitions.add_variant(conn, variant("other", "one"))
    definitions.add_variant(conn, variant("base", "one", program="other"))
    assert definitions.stored_variants(conn, "triage") == [base]
    assert definitions.variant_by_id(conn, "triage", base.id) == base
    with pytest.raises(NotFound, match="did you mean 'base'"):
        definitions.stored_variant(conn, "triage", "bas")


def test_of_two_changes_to_an_experiment_the_slower_one_is_told(conn: sa.Connection) -> None:
    draft = experiment()
    store.insert_experiment(conn, draft)
    running = store.update_experiment(conn, msgspec.structs.replace(draft, state="running"))
    with pytest.raises(Stale):
        store.update_experiment(conn, msgspec.structs.replace(draft, state="concluded"))
    assert store.experiment(conn, draft.experiment_id) == running
    assert (running.version, store.live_experiment(conn, "triage")) == (2, running)
    with pytest.raises(NotFound):
        store.experiment(conn, "none")


def test_a_program_has_at_most_one_live_experiment(conn: sa.Connection) -> None:
    store.insert_experiment(conn, experiment(1, state="running"))
    store.insert_experiment(conn, experiment(2, state="running", program="other"))
    store.insert_experiment(conn, experiment(3))
    with pytest.raises(Conflict, match="conclude that one first"):
        store.update_experiment(conn, experiment(3, state="paused"))
    with pytest.raises(Conflict):
        store.insert_experiment(conn, experiment(4, state="paused"))
    store.update_experiment(conn, experiment(1, state="concluded"))
    store.update_experiment(conn, experiment(3, state="running"))
    assert [found.experiment_id for found in store.experiments_in(conn, ["running", "paused"])] == ["e002", "e003"]


def test_pages_hold_everything_once_newest_first(conn: sa.Connection) -> None:
    for number in range(1, 8):
        store.insert_experiment(conn, experiment(number))
    for size in (1, 2, 3, 7, 8):
        seen, cursor = [], None
        while True:
            page = store.experiments_page(conn, program="triage", limit=size, cursor=cursor)
            seen += [found.experiment_id for found in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == [f"e{number:03}" for number in range(7, 0, -1)]
    assert store.experiments_page(conn, program="none").items == []


@pytest.mark.parametrize("cursor", ["", "x", "!!", "WzEsMl0", "bnVsbA", "WzEsICJcdTAwMDAiXQ", "é", "WzFlOTksIngiXQ"])
def test_a_made_up_cursor_is_refused(conn: sa.Connection, cursor: str) -> None:
    with pytest.raises(Invalid, match="/cursor"):
        store.experiments_page(conn, cursor=cursor)


@pytest.mark.parametrize("limit", [0, -1, 501])
def test_a_page_has_a_size(conn: sa.Connection, limit: int) -> None:
    with pytest.raises(Invalid, match="/limit"):
        store.experiments_page(conn, limit=limit)


def test_decisions_are_latched(conn: sa.Connection) -> None:
    def decision(tick: int, decision_id: str) -> Decision:
        return Decision(
            decision_id=decision_id,
            experiment_id="e",
            tick=tick,
            verdict="promote",
            reason="better",
            by="engine",
            actor=None,
            evidence={"log_e": 3.25, "n": 1},
            split_before={"base": 0.5, "new": 0.5},
            split_after={},
            blocks=4,
            registered=4,
            horizon=99,
            created_at=tick,
        )

    store.append_decision(conn, decision(1, "a"))
    with pytest.raises(Stale):
        store.append_decision(conn, decision(1, "b"))
    store.append_decision(conn, decision(2, "c"))
    assert store.decisions_of(conn, "e") == [decision(1, "a"), decision(2, "c")]
    assert store.decisions_page(conn, "e", limit=1).items == [decision(2, "c")]


def test_levels_are_drawn_once_each(conn: sa.Connection) -> None:
    first = store.Level(program="triage", series=1, t=1, experiment_id="e1", alpha=0.05, level=0.03)
    store.append_level(conn, first)
    for again in (msgspec.structs.replace(first, experiment_id="e2"), msgspec.structs.replace(first, t=2)):
        with pytest.raises(Stale):
            store.append_level(conn, again)
    store.conclude_level(conn, "e1", log_e=3.5, rejected=True)
    assert store.levels_of(conn, "triage") == [msgspec.structs.replace(first, log_e=3.5, rejected=True)]


def test_a_promotion_is_taken_back_once(conn: sa.Connection) -> None:
    made = store.Promotion(
        promotion_id="p1",
        program="triage",
        from_variant="base",
        to_variant="new",
        experiment_id="e1",
        by="engine",
        actor=None,
        reason="better",
        created_at=5,
    )
    store.append_promotion(conn, made)
    store.mark_rolled_back(conn, "p1", 9)
    with pytest.raises(Stale):
        store.mark_rolled_back(conn, "p1", 10)
    assert store.promotions_of(conn, "triage") == [msgspec.structs.replace(made, rolled_back_at=9)]


def reserve(conn: sa.Connection, holder: str, now: int, body: str = "body") -> object:
    return idempotency.reserve_key(conn, "triage", "k", body_digest=body, holder=holder, now=now, lease=100)


def complete(conn: sa.Connection, holder: str, answer: str) -> None:
    append(conn, [Entry(completion=Completion("triage", "k", holder, answer))])


def test_a_key_is_worked_on_by_one_and_answered_for_all(conn: sa.Connection) -> None:
    assert reserve(conn, "one", 0) == Fresh()
    assert reserve(conn, "two", 99) == InFlight(100)
    assert reserve(conn, "two", 99, body="other") == OtherBody()
    complete(conn, "two", "not mine to answer")
    assert reserve(conn, "two", 99) == InFlight(100)
    complete(conn, "one", "answer")
    assert reserve(conn, "two", 500) == Answered("answer")
    assert reserve(conn, "two", 500, body="other") == OtherBody()
    idempotency.release_key(conn, "triage", "k", "one")
    assert reserve(conn, "two", 500) == Answered("answer")


def test_a_dead_holder_is_taken_over_and_can_no_longer_answer(conn: sa.Connection) -> None:
    assert reserve(conn, "one", 0) == Fresh()
    assert reserve(conn, "two", 100) == Fresh()
    complete(conn, "one", "late")
    idempotency.release_key(conn, "triage", "k", "one")
    assert reserve(conn, "three", 101) == InFlight(200)
    complete(conn, "two", "answer")
    assert reserve(conn, "three", 102) == Answered("answer")


def test_a_released_key_is_free_for_any_request(conn: sa.Connection) -> None:
    reserve(conn, "one", 0)
    idempotency.release_key(conn, "triage", "k", "one")
    assert reserve(conn, "two", 1, body="other") == Fresh()


def test_keys_are_forgotten_after_a_day(conn: sa.Connection) -> None:
    reserve(conn, "one", 0)
    complete(conn, "one", "answer")
    assert reserve(conn, "two", KEPT - 1) == Answered("answer")
    assert reserve(conn, "two", KEPT, body="other") == Fresh()
    assert idempotency.purge_keys(conn, 2 * KEPT - 1) == 0
    assert idempotency.purge_keys(conn, 2 * KEPT) == 1


@pytest.mark.anyio
async def test_an_answer_is_stored_with_its_prediction_or_not_at_all(database_url: str) -> None:
    async with opened(database_url) as opened_store:
        await opened_store.write(reserve, "one", 0)
        with opened_store.journal.reserve(2) as slot:
            refused = slot.append(prediction(latency=2**63), completion=Completion("triage", "k", "one", "answer"))
            with pytest.raises(Exception, match="refused"):
                await refused
            assert await opened_store.write(reserve, "two", 1) == InFlight(100)
            await slot.append(prediction(), completion=Completion("triage", "k", "one", "answer"))
        assert await opened_store.write(reserve, "two", 1) == Answered("answer")


def test_a_revoked_key_opens_nothing(conn: sa.Connection) -> None:
    key = Key(key_id="k1", name="app", scopes=("predict", "read"), created_at=1)
    keys.add_key(conn, key, "digest")
    assert keys.valid_keys(conn) == {"digest": key}
    keys.touch_keys(conn, {"k1": 7, "unknown": 7})
    keys.touch_keys(conn, {"k1": 5})
    used = msgspec.structs.replace(key, last_used_at=7)
    assert keys.valid_keys(conn) == {"digest": used}
    keys.revoke_key(conn, "k1", 9)
    keys.revoke_key(conn, "k1", 10)
    assert keys.valid_keys(conn) == {}
    assert keys.stored_key(conn, "k1") == msgspec.structs.replace(used, revoked_at=9)
    with pytest.raises(NotFound):
        keys.revoke_key(conn, "unknown", 9)


def test_a_constant_is_settled_by_the_first(conn: sa.Connection) -> None:
    assert upkeep.constant(conn, "pepper", "one") == "one"
    assert upkeep.constant(conn, "pepper", "two") == "one"
    upkeep.put_setting(conn, "frozen", "yes")
    upkeep.put_setting(conn, "frozen", "no")
    assert (upkeep.setting(conn, "frozen"), upkeep.setting(conn, "none")) == ("no", None)


def test_a_tick_is_run_once(conn: sa.Connection) -> None:
    assert upkeep.claim_tick(conn, "decide", 10)
    assert not upkeep.claim_tick(conn, "decide", 10)
    assert upkeep.claim_tick(conn, "purge", 10)
    assert upkeep.last_finished(conn) == {}
    for due in range(20, 1100):
        upkeep.claim_tick(conn, "decide", due)
    upkeep.finish_tick(conn, "decide", 1099, 2000)
    assert upkeep.last_finished(conn) == {"decide": 2000}
    kept = "SELECT count(*), min(due_at) FROM ticks WHERE job = 'decide'"
    assert tuple(conn.execute(sa.text(kept)).one()) == (1000, 100)
