"""Definitions put in force: all or nothing, new variants off traffic, and the file that is followed."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from experiments.errors import Conflict, Invalid, Stale
from server.definitions.applying import Watcher, apply, following
from server.store.definitions import latest_definitions, stored_programs
from tests.application import DEFINITIONS, Application, application

SHARPER = DEFINITIONS.replace("Classify the support ticket.", "Say what the customer wants.")
OTHER_FIELDS = DEFINITIONS.replace("-> category: Literal", "-> kind: Literal").replace("field: category", "field: kind")


async def variants(app: Application) -> list[str]:
    answer = await app.http.get("/v1/programs/triage/variants")
    return [variant["name"] for variant in answer.json()["items"]]


async def program(app: Application) -> dict[str, Any]:
    found: dict[str, Any] = (await app.http.get("/v1/programs/triage")).json()
    return found


async def on_trial(app: Application) -> str:
    """Start an experiment on triage; returns its id."""
    await app.http.post("/v1/programs/triage/variants", json={"name": "terse", "instructions": "Be terse."})
    made = await app.http.post("/v1/experiments", json={"program": "triage", "challengers": ["terse"]})
    assert made.status_code == 201, made.text
    experiment_id = str(made.json()["experiment_id"])
    started = await app.http.post(f"/v1/experiments/{experiment_id}/start", json={"reason": "test"})
    assert started.status_code == 200, started.text
    return experiment_id


def test_the_first_variant_of_a_program_serves_it(database_url: str) -> None:
    async def play() -> None:
        async with application(database_url) as app:
            found = await program(app)
            assert (found["champion"], found["epoch"], found["split"]) == ("base", 1, {"base": 1.0})

    asyncio.run(play())


def test_the_same_text_again_changes_nothing(database_url: str) -> None:
    async def play() -> None:
        async with application(database_url) as app:
            again = await apply(app.ratchet, DEFINITIONS, "ratchet.yaml", "test")
            assert (again.version, again.changes) == (1, [])
            assert await variants(app) == ["base"]

    asyncio.run(play())


def test_an_edited_instruction_is_a_new_variant_off_traffic(database_url: str) -> None:
    async def play() -> None:
        async with application(database_url) as app:
            applied = await apply(app.ratchet, SHARPER, "ratchet.yaml", "test")
            assert [change.key for change in applied.changes] == ["instructions"]
            assert await variants(app) == ["base-2", "base"]
            assert (await program(app))["champion"] == "base"
            back = await apply(app.ratchet, DEFINITIONS, "ratchet.yaml", "test")
            assert back.version == 3
            assert await variants(app) == ["base-2", "base"]

    asyncio.run(play())


def test_a_new_signature_serves_at_once_in_a_new_epoch(database_url: str) -> None:
    async def play() -> None:
        async with application(database_url) as app:
            await apply(app.ratchet, OTHER_FIELDS, "ratchet.yaml", "test")
            found = await program(app)
            assert (found["champion"], found["epoch"]) == ("base-2", 2)
            assert "kind" in found["outputs"]

    asyncio.run(play())


def test_a_new_signature_is_refused_while_an_experiment_runs(database_url: str) -> None:
    async def play() -> None:
        async with application(database_url) as app:
            await on_trial(app)
            with pytest.raises(Conflict, match="/programs/triage/signature: refused"):
                await apply(app.ratchet, OTHER_FIELDS, "ratchet.yaml", "test")
            with pytest.raises(Conflict, match="/programs/triage: refused"):
                await apply(app.ratchet, "programs: {}", "ratchet.yaml", "test")
            latest = await app.ratchet.store.read(latest_definitions)
            assert latest is not None
            assert latest.version == 1
            assert (await program(app))["experiment_id"] is not None

    asyncio.run(play())


def test_after_a_new_signature_nothing_leads_back_to_variants_that_cannot_answer_it(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            promoted = await on_trial(app)
            because = {"reason": "test"}
            await app.http.post(f"/v1/experiments/{promoted}/promote", json={**because, "variant": "terse"})
            draft = await app.http.post("/v1/experiments", json={"program": "triage", "challengers": ["base"]})
            await apply(app.ratchet, OTHER_FIELDS, "ratchet.yaml", "test")
            for act, experiment_id in (("rollback", promoted), ("promote", draft.json()["experiment_id"])):
                refused = await app.http.post(f"/v1/experiments/{experiment_id}/{act}", json=because)
                assert refused.status_code == 409, refused.text
            assert (await program(app))["champion"] == "base-2"
            pinned = await app.predict(variant="terse")
            assert (pinned.status_code, pinned.json()["errors"][0]["pointer"]) == (400, "/variant")

    asyncio.run(play())


def test_a_removed_program_is_served_no_longer_and_comes_back_with_its_variants(database_url: str) -> None:
    async def play() -> None:
        async with application(database_url) as app:
            await apply(app.ratchet, SHARPER, "ratchet.yaml", "test")
            await apply(app.ratchet, "programs: {}", "ratchet.yaml", "test")
            assert (await app.http.get("/v1/programs/triage")).status_code == 404
            assert (await app.predict()).status_code == 404
            await apply(app.ratchet, SHARPER, "ratchet.yaml", "test")
            assert await variants(app) == ["base-2", "base"]
            assert (await app.predict()).status_code == 200

    asyncio.run(play())


def test_one_bad_program_keeps_all_others_out(database_url: str) -> None:
    async def play() -> None:
        async with application(database_url) as app:
            half = DEFINITIONS + "  other: {signature: a -> b, lm: nope}\n"
            with pytest.raises(Invalid, match=r"new.yaml:\d+:\d+: programs.other.lm: model 'nope'"):
                await apply(app.ratchet, half, "new.yaml", "test")
            assert [p.name for p in await app.ratchet.store.read(stored_programs)] == ["triage"]

    asyncio.run(play())


def test_a_version_that_is_past_is_refused(database_url: str) -> None:
    async def play() -> None:
        async with application(database_url) as app:
            await apply(app.ratchet, SHARPER, "ratchet.yaml", "test", version=1)
            with pytest.raises(Stale, match="version 2 is in force, not 1"):
                await apply(app.ratchet, DEFINITIONS, "ratchet.yaml", "test", version=1)

    asyncio.run(play())


def test_of_two_at_the_same_time_one_is_told_to_look_again(database_url: str) -> None:
    async def play() -> None:
        async with application(database_url) as app:
            texts = [DEFINITIONS + f"  p{n}: {{signature: a -> b, lm: sim/triage}}\n" for n in range(4)]
            done = await asyncio.gather(
                *(apply(app.ratchet, text, "ratchet.yaml", "test") for text in texts), return_exceptions=True
            )
            won = [result for result in done if not isinstance(result, BaseException)]
            assert won
            assert all(isinstance(result, Stale) for result in done if isinstance(result, BaseException))
            latest = await app.ratchet.store.read(latest_definitions)
            assert latest is not None
            assert latest.version == 1 + len(won)

    asyncio.run(play())


def test_over_http_they_are_compared_applied_and_read(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            body = {"source": SHARPER, "filename": "mine.yaml"}
            compared = await app.http.post("/v1/definitions/diff", json=body)
            assert compared.status_code == 200, compared.text
            assert [c["key"] for c in compared.json()["changes"]] == ["instructions"]
            read = await app.http.get("/v1/definitions")
            assert read.json()["source"] == DEFINITIONS
            put = await app.http.put("/v1/definitions", json=body, headers={"If-Match": read.headers["etag"]})
            assert (put.status_code, put.json()["version"]) == (200, 2)
            stale = await app.http.put("/v1/definitions", json=body, headers={"If-Match": read.headers["etag"]})
            assert stale.status_code == 412
            bad = await app.http.put("/v1/definitions", json={"source": "programs: {a: 1}", "filename": "mine.yaml"})
            assert bad.status_code == 400
            assert bad.json()["errors"] == [
                {"pointer": "/programs/a", "message": "mine.yaml:1:15: programs.a: 1 is not a mapping"}
            ]

    asyncio.run(play())


def test_a_followed_file_is_applied_and_a_bad_one_leaves_the_last_good_in_force(
    sqlite_url: str, tmp_path: Path
) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            file = tmp_path / "ratchet.yaml"
            watcher = Watcher(app.ratchet, file)
            for text in (SHARPER, "programs: [", None):
                file.write_text(text) if text else file.unlink()
                await watcher.look()
            assert list(watcher.errors) == [f"{file}: cannot be read: No such file or directory"]
            assert b"ratchet_config_last_reload_successful 0" in app.ratchet.metrics.render()
            assert (await app.predict()).status_code == 200
            file.write_text(DEFINITIONS)
            await watcher.look()
            assert not list(watcher.errors)
            assert b"ratchet_config_last_reload_successful 1" in app.ratchet.metrics.render()
            latest = await app.ratchet.store.read(latest_definitions)
            assert latest is not None
            assert (latest.version, latest.source, latest.actor) == (3, DEFINITIONS, "file")

    asyncio.run(play())


def test_what_an_experiment_forbids_is_applied_when_it_has_ended(sqlite_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            experiment_id = await on_trial(app)
            file = tmp_path / "ratchet.yaml"
            file.write_text(OTHER_FIELDS)
            watcher = Watcher(app.ratchet, file)
            await watcher.look()
            assert "refused" in watcher.errors[0]
            await app.http.post(f"/v1/experiments/{experiment_id}/stop", json={"reason": "test"})
            await watcher.look()
            assert not list(watcher.errors)
            assert "kind" in (await program(app))["outputs"]

    asyncio.run(play())


def test_a_change_of_the_file_is_noticed_by_itself(sqlite_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            file = tmp_path / "ratchet.yaml"
            file.write_text(DEFINITIONS)
            async with following(app.ratchet, file):
                file.write_text(SHARPER)
                for _ in range(200):
                    if await variants(app) == ["base-2", "base"]:
                        return
                    await asyncio.sleep(0.05)
            pytest.fail("the file was not noticed")

    asyncio.run(play())
