"""The routing table in memory, and the horizon: what is known to be stored."""

import asyncio

import msgspec
import pytest

from experiments.errors import Invalid, Unavailable
from experiments.quantities import SECOND
from learning.definitions import ProgramDefinition
from learning.programs import Blueprint
from learning.variants import Variant
from server.definitions.applying import apply
from server.store.routings import append_routing, routing_in_force
from server.traffic import SLACK
from tests.application import DEFINITIONS, application, until
from tests.scripted_lm import Reply, chat


def test_another_process_serves_by_a_change_within_a_second(postgres_url: str) -> None:
    async def play() -> None:
        async with application(postgres_url, embedded=False) as one, application(postgres_url, embedded=False) as two:
            made = await one.http.post("/v1/programs/triage/variants", json={"name": "terse", "instructions": "Terse."})
            assert made.status_code in (200, 201)
            now = await one.ratchet.store.read(routing_in_force, "triage")
            assert now is not None
            changed = msgspec.structs.replace(now, epoch=now.epoch + 1, champion="terse", reason="test")
            await one.ratchet.store.write(append_routing, changed)
            began = asyncio.get_running_loop().time()
            await until(lambda: two.ratchet.traffic.program("triage").routing.champion == "terse")
            assert asyncio.get_running_loop().time() - began < 5
            assert (await two.predict()).json()["variant"] == "terse"

    asyncio.run(play())


def test_definitions_applied_elsewhere_are_followed(postgres_url: str) -> None:
    async def play() -> None:
        async with application(postgres_url, embedded=False) as one, application(postgres_url, embedded=False) as two:
            longer = DEFINITIONS.replace("timeout: 5s", "timeout: 7s")
            applied = await one.http.put("/v1/definitions", json={"source": longer, "filename": "ratchet.yaml"})
            assert applied.status_code == 200, applied.text
            await until(lambda: two.ratchet.traffic.program("triage").definition.deadline == 7 * SECOND)

    asyncio.run(play())


def test_a_program_whose_new_form_cannot_load_is_served_in_its_last_good_one(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            prepare = app.ratchet.runner.prepare

            def torn(variant: Variant, definition: ProgramDefinition) -> Blueprint:
                if definition.deadline == 7 * SECOND:
                    raise Invalid("its key is missing here")
                return prepare(variant, definition)

            monkeypatch.setattr(app.ratchet.runner, "prepare", torn)
            await apply(app.ratchet, DEFINITIONS.replace("timeout: 5s", "timeout: 7s"), "ratchet.yaml", "test")
            assert (await app.predict()).status_code == 200
            (told,) = (await app.http.get("/v1/status")).json()["programs"]
            assert (told["champion"], told["problem"]) == ("base", "its key is missing here")
            assert len((await app.http.get("/v1/programs")).json()["items"]) == 1
            await apply(app.ratchet, DEFINITIONS, "ratchet.yaml", "test")
            (told,) = (await app.http.get("/v1/status")).json()["programs"]
            assert told["problem"] is None

    asyncio.run(play())


def test_alone_the_horizon_is_the_oldest_request_under_way(sqlite_url: str) -> None:
    async def play() -> None:
        slow = Reply(chat(category="bug"), seconds=0.3)
        async with application(sqlite_url, lambda _model, _prompt: slow) as app:
            before = app.ratchet.now()
            assert app.ratchet.traffic.horizon(before) == before
            waiting = asyncio.create_task(app.predict())
            await asyncio.sleep(0.1)
            now = app.ratchet.now()
            assert before <= app.ratchet.traffic.horizon(now) < now
            told = (await waiting).json()["prediction_id"]
            reporting = asyncio.create_task(app.report({"prediction_id": told, "comment": "x"}))
            await asyncio.sleep(0)
            await reporting
            await app.ratchet.traffic.drained()
            assert app.ratchet.traffic.horizon(app.ratchet.now()) >= now

    asyncio.run(play())


def test_beside_other_processes_the_horizon_lies_behind_the_longest_deadline(postgres_url: str) -> None:
    async def play() -> None:
        async with application(postgres_url, embedded=False) as app:
            now = app.ratchet.now()
            assert app.ratchet.traffic.horizon(now) == now - 5 * SECOND - SLACK
            app.ratchet.traffic.refuse_if_late(now - 6 * SECOND, 5 * SECOND, now)
            with pytest.raises(Unavailable):
                app.ratchet.traffic.refuse_if_late(now - 11 * SECOND, 5 * SECOND, now)

    asyncio.run(play())
