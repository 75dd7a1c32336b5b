"""Retention: content that is old enough goes, the facts stay, and every decision replays."""

import asyncio
from typing import Any

from msgspec.structs import replace

from experiments.decision import Conclude
from experiments.quantities import SECOND
from learning.compile_runs import Event, Progress
from server.clock import now
from server.loop.retaining import retain
from server.store import Connection, compiles
from server.store.compiles import NumberedEvent
from server.store.facts import example, prediction_page
from server.store.upkeep import purge_contents
from server.trials.replay import replay
from tests.application import Application, Clock, application
from tests.server.loop.feedback import PROGRAM, labelled
from tests.server.world import World, on

HOUR = 3600 * SECOND


def test_without_a_setting_everything_is_kept(sqlite_url: str) -> None:
    async def play() -> None:
        clock = Clock()
        async with application(sqlite_url, now=clock) as app:
            about = await commented(app)
            clock.ahead = 1000 * 24 * HOUR
            assert await retain(app.ratchet) == 0
            assert (await found(app, about)).content is not None

    asyncio.run(play())


def test_content_goes_when_it_is_old_enough_and_the_facts_stay(database_url: str) -> None:
    async def play() -> None:
        clock = Clock()
        async with application(database_url, now=clock) as app:
            keeping = replace(app.ratchet, settings=replace(app.ratchet.settings, retain=2 * HOUR))
            about = await commented(app)
            clock.ahead = HOUR
            assert await retain(keeping) == 0
            clock.ahead = 3 * HOUR
            assert await retain(keeping) == 3, "the content, the label's remark and the comment"
            kept = await found(app, about)
            assert kept.content is None
            assert kept.prediction.assigned_variant == "base"
            assert [(said.metric, said.value, said.label, said.comment) for said in kept.outcomes] == [
                ("correct", 1.0, None, None)
            ]
            listed = (await app.http.get("/v1/programs/triage/predictions")).json()["items"]
            assert listed[0]["input"] is None
            late = await app.report({"prediction_id": about, "metric": "solved", "value": True})
            assert late[0]["status"] == "accepted"

    asyncio.run(play())


async def commented(app: Application) -> str:
    about: str = (await app.predict()).json()["prediction_id"]
    await app.report(
        {"prediction_id": about, "label": {"category": "bug"}}, {"prediction_id": about, "comment": "Ann was happy."}
    )
    return about


async def found(app: Application, about: str) -> Any:
    one = await app.ratchet.store.read(example, about)
    assert one is not None
    return one


def test_a_decision_replays_after_all_content_has_gone(database_url: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await world.begin()
        ruling = await world.until_verdict(experiment)
        assert isinstance(ruling, Conclude)

        def purge(conn: Connection) -> int:
            purged = 0
            while some := purge_contents(conn, now() + HOUR):
                purged += some
            return purged

        assert await world.store.write(purge) == world.units
        page = await world.store.read(prediction_page, "p", limit=500)
        assert all(one.content is None for one in page.items)
        again = await world.store.read(replay, experiment.experiment_id)
        assert again.agrees
        assert again.decisions == 1

    on(database_url, {"base": 0.5, "new": 0.85}, scenario)


def test_what_compile_runs_tell_goes_too(sqlite_url: str) -> None:
    """A proposed instruction may quote users."""

    async def play() -> None:
        clock = Clock()
        async with application(sqlite_url, definitions=PROGRAM, embedded=False, now=clock) as app:
            store = app.ratchet.store
            await labelled(store, 200)
            run = (await app.http.post("/v1/programs/triage/compiles", json={})).json()
            claim = await store.write(compiles.claim_run, "a", 60 * SECOND, clock())
            assert claim is not None
            told = Event(kind="proposed", at=clock(), said="", progress=Progress(), spent=0, text="Ann was happy.")
            await store.write(compiles.renew_run, claim, 60 * SECOND, (NumberedEvent(1, told),))
            await store.write(compiles.finish_run, claim, replace(claim.run, state="rejected", finished_at=clock()))
            path = f"/v1/compiles/{run['compile_id']}/events"
            assert "Ann" in (await app.http.get(path)).text
            clock.ahead = 3 * HOUR
            keeping = replace(app.ratchet, settings=replace(app.ratchet.settings, retain=2 * HOUR))
            assert await retain(keeping) > 2
            after = (await app.http.get(path)).text
            assert "Ann" not in after
            assert '"state":"rejected"' in after

    asyncio.run(play())
