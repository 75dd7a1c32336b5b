"""What happens while a run is prepared, waits or is under way: nothing is spent, kept or tried without permission."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from experiments.errors import Unavailable
from experiments.quantities import SECOND
from learning.compile_runs import CompileRun
from server.definitions.applying import apply
from server.loop import compiling, following
from server.loop.compiling import MOST_BEGUN, carry_out
from server.loop.cycling import learn
from server.loop.directories import Directory
from server.loop.following import Follower
from server.ratchet import Ratchet
from server.store import Connection, Store, compiles
from server.store.definitions import put_program, stored_variant, stored_variants
from server.store.drifts import live_with, open_alarms
from server.store.rows import encode
from server.store.tables import variants
from server.store.upkeep import put_setting
from server.trials.ticking import FROZEN
from tests.application import Application, application
from tests.server.loop.feedback import PROGRAM, SLOW, labelled
from tests.server.loop.test_compiling import asked, begun, children, compiled, ended, until
from tests.server.loop.test_cycling import alarm, runs, when

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

OTHERS = PROGRAM.replace("  triage:\n", "  another:\n")

HANGING = "lm: {model: sim/triage, options: {seed: 7, latency: 600s}"


class Meddled:
    """A store to whose write of one name something happens first."""

    def __init__(self, store: Store, name: str, meddle: Callable[[], Awaitable[object]]) -> None:
        self._store = store
        self._name = name
        self._meddle = meddle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        if function.__name__ == self._name:
            await self._meddle()
        return await self._store.write(function, *args, **kwargs)


def meddled(ratchet: Ratchet, name: str, meddle: Callable[[], Awaitable[object]]) -> Ratchet:
    return replace(ratchet, store=Meddled(ratchet.store, name, meddle))


async def claimed(app: Application) -> compiles.Claim:
    claim = await app.ratchet.store.write(compiles.claim_run, "somebody", 60 * SECOND, app.ratchet.now())
    assert claim is not None
    return claim


async def _freeze(app: Application) -> None:
    await app.ratchet.store.write(put_setting, FROZEN, "because")


async def _live_with_it(app: Application) -> None:
    (raised,) = await app.ratchet.store.read(open_alarms, "triage")
    await app.ratchet.store.write(live_with, raised, app.ratchet.now(), "ann: it is fine")


async def _edit(app: Application) -> None:
    await apply(app.ratchet, when("[drift]").replace("budget_usd: 1", "budget_usd: 0.5"), "ratchet.yaml", "ann")


async def _remove(app: Application) -> None:
    await apply(app.ratchet, OTHERS, "ratchet.yaml", "ann")


@pytest.mark.parametrize("meddle", [_freeze, _live_with_it, _edit, _remove])
async def test_what_changes_while_a_run_is_prepared_keeps_it_from_being_queued(
    sqlite_url: str, meddle: Callable[[Application], Awaitable[None]]
) -> None:
    async with application(sqlite_url, definitions=when("[drift]"), embedded=False) as app:
        await labelled(app.ratchet.store, 240)
        await alarm(app)
        await learn(meddled(app.ratchet, "_queue", lambda: meddle(app)))
        assert await runs(app) == []


async def test_nothing_that_nobody_asked_for_is_begun_while_acts_are_frozen(sqlite_url: str, tmp_path: Path) -> None:
    async with application(sqlite_url, definitions=when("[drift]"), embedded=False, data=tmp_path) as app:
        await labelled(app.ratchet.store, 240)
        await alarm(app)
        await learn(app.ratchet)
        assert [run["state"] for run in await runs(app)] == ["queued"]
        await _freeze(app)
        async with compiling.compiling(app.ratchet):
            await asyncio.sleep(2.5)
            assert [run["state"] for run in await runs(app)] == ["queued"]
            await app.ratchet.store.write(put_setting, FROZEN, "")
            (run,) = await runs(app)
            assert (await until(app, run["compile_id"], ended))["state"] == "succeeded"


async def test_a_run_that_is_cancelled_as_it_succeeds_is_cancelled(sqlite_url: str, tmp_path: Path) -> None:
    async with compiled(sqlite_url, tmp_path / "data", embedded=False) as app:
        compile_id = await asked(app)

        async def cancel() -> None:
            assert (await app.http.post(f"/v1/compiles/{compile_id}/cancel")).status_code == 200

        await carry_out(meddled(app.ratchet, "admit", cancel), await claimed(app))
        run = (await app.http.get(f"/v1/compiles/{compile_id}")).json()
        assert (run["state"], run["variant"], run["error"]) == ("cancelled", None, None)
        assert [variant.name for variant in await app.ratchet.store.read(stored_variants, "triage")] == ["base"]
        await learn(app.ratchet)
        assert app.ratchet.traffic.program("triage").routing.running is None


async def test_a_run_that_nobody_works_on_any_more_is_cancelled_at_once(sqlite_url: str) -> None:
    async with application(sqlite_url, definitions=PROGRAM, embedded=False) as app:
        await labelled(app.ratchet.store, 240)
        compile_id = await asked(app)
        await claimed(app)
        path = f"/v1/compiles/{compile_id}/cancel"
        assert (await app.http.post(path)).json()["state"] == "running", "its runner is asked to end it"
        await app.ratchet.store.write(compiles.release_runs)
        assert (await app.http.post(path)).json()["state"] == "cancelled"


async def test_an_edited_module_does_not_void_what_was_compiled_for_the_champion(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with compiled(sqlite_url, tmp_path / "data") as app:
        edited = PROGRAM.replace("    timeout: 5s\n", "    timeout: 5s\n    module: chain_of_thought\n")
        await apply(app.ratchet, edited, "ratchet.yaml", "ann")
        run = await until(app, await asked(app), ended)
        assert (run["state"], run["error"]) == ("succeeded", None)
        made = await app.ratchet.store.read(stored_variant, "triage", run["variant"])
        assert (made.module, made.parent) == ("predict", "base")


async def test_a_goal_that_is_changed_under_way_ends_the_run_without_a_candidate(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with compiled(sqlite_url, tmp_path / "data", embedded=False) as app:
        compile_id = await asked(app)
        claim = await claimed(app)
        other = PROGRAM.replace("kind: exact_match", "kind: normalized_match")

        async def edit() -> None:
            await apply(app.ratchet, other, "ratchet.yaml", "ann")

        meddling = asyncio.create_task(_once_begun(edit))
        await carry_out(app.ratchet, claim)
        await meddling
        run = (await app.http.get(f"/v1/compiles/{compile_id}")).json()
        assert run["state"] == "failed"
        assert "the goal was changed" in run["error"]


async def _once_begun(act: Callable[[], Awaitable[None]]) -> None:
    while not children():
        await asyncio.sleep(0.02)
    await act()


async def test_removing_a_program_ends_its_run(sqlite_url: str, tmp_path: Path) -> None:
    async with compiled(sqlite_url, tmp_path / "data", SLOW) as app:
        compile_id = await asked(app)
        await until(app, compile_id, begun)
        await apply(app.ratchet, OTHERS, "ratchet.yaml", "ann")
        assert (await until(app, compile_id, ended))["state"] == "cancelled"
        assert children() == []


async def test_a_run_for_a_former_champion_ends_before_anything_is_spent(sqlite_url: str, tmp_path: Path) -> None:
    async with compiled(sqlite_url, tmp_path / "data", embedded=False) as app:
        compile_id = await asked(app)
        body = {"name": "rival", "instructions": "Guess."}
        (await app.http.post("/v1/programs/triage/variants", json=body)).raise_for_status()
        wanted = {"program": "triage", "challengers": ["rival"], "holdback": 0}
        rival = (await app.http.post("/v1/experiments", json=wanted)).json()["experiment_id"]
        (await app.http.post(f"/v1/experiments/{rival}/promote", json={"reason": "better"})).raise_for_status()
        await carry_out(app.ratchet, await claimed(app))
        run = (await app.http.get(f"/v1/compiles/{compile_id}")).json()
        assert (run["state"], run["spent_usd"]) == ("failed", "0")
        assert "'rival' took the place of the champion 'base'" in run["error"]


async def test_a_program_that_cannot_be_loaded_fails_its_run_after_some_attempts(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with compiled(sqlite_url, tmp_path / "data", embedded=False) as app:
        compile_id = await asked(app)
        definition = replace(app.ratchet.traffic.program("triage").definition, timeout="6s")
        await app.ratchet.store.write(put_program, "triage", definition, 1)
        await app.ratchet.store.write(_spoil)
        await app.ratchet.traffic.refresh()
        async with compiling.compiling(app.ratchet):
            run = await until(app, compile_id, ended)
        assert run["state"] == "failed"
        assert "3 attempts failed" in run["error"]
        assert "cannot be loaded as it is defined now" in run["error"]
        assert "gone" in run["error"]
        refused = await app.http.post("/v1/programs/triage/compiles", json={})
        assert refused.status_code == 409
        assert "cannot be loaded" in refused.json()["detail"]


async def test_a_run_that_is_begun_again_and_again_comes_to_an_end(sqlite_url: str, tmp_path: Path) -> None:
    """As when it takes its server with it each time."""
    async with compiled(sqlite_url, tmp_path / "data", embedded=False) as app:
        compile_id = await asked(app)
        claim = await claimed(app)
        await app.ratchet.store.write(compiles.renew_run, claim, 0, (), replace(claim.run, attempt=MOST_BEGUN))
        await carry_out(app.ratchet, await claimed(app))
        run = (await app.http.get(f"/v1/compiles/{compile_id}")).json()
        assert run["state"] == "failed"
        assert f"begun {MOST_BEGUN} times" in run["error"]


async def test_a_child_that_does_not_end_in_time_is_ended_and_the_run_is_not_repeated(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_GRACE", 0.0)
    monkeypatch.setattr(following, "_PATIENCE", 0.5)
    hanging = PROGRAM.replace("lm: {model: sim/triage, options: {seed: 7}", HANGING)
    hanging = hanging.replace("max_metric_calls: 420", "max_metric_calls: 420\n      max_duration: 3s")
    async with compiled(sqlite_url, tmp_path / "data", hanging) as app:
        run = await until(app, await asked(app), ended)
        assert run["state"] == "failed"
        assert "`max_duration`" in run["error"]
        kept = await app.ratchet.store.read(compiles.compile_run, run["compile_id"])
        assert kept.attempt == 1


def _spoil(conn: Connection) -> None:
    """The champion's code is not there any more."""
    gone = replace(stored_variant(conn, "triage", "base"), id="gone", module="gone.away:Program")
    conn.execute(variants.update().values(id=gone.id, body=encode(gone)))


class Gone:
    """A store whose database is out of reach."""

    async def write(self, *_: object, **__: object) -> CompileRun:
        raise Unavailable("it is gone")

    read = write


@pytest.mark.parametrize("embedded", [True, False])
async def test_a_child_goes_on_without_the_database_until_another_runner_may_have_the_run(
    sqlite_url: str, tmp_path: Path, *, embedded: bool
) -> None:
    async with application(sqlite_url, definitions=PROGRAM, embedded=False) as app:
        await labelled(app.ratchet.store, 240)
        await asked(app)
        settings = replace(app.ratchet.settings, lease=SECOND // 5, embedded=embedded)
        cut_off = replace(app.ratchet, store=Gone(), settings=settings)
        follower = Follower(cut_off, await claimed(app), Directory(tmp_path, "run"))
        assert not await follower.tell()
        await asyncio.sleep(0.3)
        if embedded:
            assert not await follower.tell(), "there is no other"
        else:
            with pytest.raises(Unavailable):
                await follower.tell()


async def test_a_lease_is_kept_while_a_run_is_prepared_for_longer_than_it_lasts(
    sqlite_url: str, tmp_path: Path
) -> None:
    """Else two workers take it from each other for ever."""
    async with compiled(sqlite_url, tmp_path / "data", embedded=False) as app:
        await asked(app)
        brief = replace(app.ratchet, settings=replace(app.ratchet.settings, lease=SECOND // 2))
        claim = await app.ratchet.store.write(compiles.claim_run, "slow", SECOND // 2, 0)
        assert claim is not None
        async with compiling._holding(brief, claim):
            await asyncio.sleep(1.5)
            assert not await app.ratchet.store.read(compiles.free_run)
        await asyncio.sleep(1.0)
        assert await app.ratchet.store.read(compiles.free_run)
