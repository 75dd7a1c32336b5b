"""Compile runs carried out by the real child: to a trial, through deaths and cancellations, or to a stated refusal."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec.structs import replace

from experiments.quantities import SECOND
from learning.compile_runs import Budget, CompileRun
from server.clock import new_id
from server.loop.compiling import compiling
from server.loop.cycling import learn
from server.store import Connection, compiles
from server.store import experiments as experiments_store
from server.store.definitions import stored_variant, stored_variants
from server.store.upkeep import put_setting
from server.trials.ticking import FROZEN
from tests.application import Application, application
from tests.server.loop.feedback import PROGRAM, SLOW, labelled

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

COMPILES = "/v1/programs/triage/compiles"


@asynccontextmanager
async def compiled(
    url: str, data: Path, definitions: str = PROGRAM, *, embedded: bool = True
) -> AsyncIterator[Application]:
    """The application with enough to learn from."""
    async with application(url, definitions=definitions, data=data, embedded=embedded) as app:
        if not (await app.http.get("/v1/compiles")).json()["items"]:
            await labelled(app.ratchet.store, 240)
        yield app


async def asked(app: Application, **body: Any) -> str:
    """The id of a run that is asked for."""
    answer = await app.http.post(COMPILES, json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["compile_id"])


async def until(app: Application, compile_id: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The run once this is so; a minute at most."""
    run: dict[str, Any] = {}
    for _ in range(600):
        run = (await app.http.get(f"/v1/compiles/{compile_id}")).json()
        if holds(run):
            return run
        await asyncio.sleep(0.1)
    raise AssertionError(run)


async def emptied(tmp_path: Path) -> None:
    """Wait until no run directory is left; half a minute at most."""
    for _ in range(300):
        if not list((tmp_path / "data" / "compiles").iterdir()):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(list((tmp_path / "data" / "compiles").iterdir()))


def ended(run: dict[str, Any]) -> bool:
    return run["state"] not in ("queued", "running")


def begun(run: dict[str, Any]) -> bool:
    """It has paid for something."""
    return bool(run["state"] == "running" and run["progress"]["metric_calls"] > 20)


def children() -> list[psutil.Process]:
    """The compiling processes of this one."""
    return [child for child in psutil.Process().children() if "learning.compiling.child" in " ".join(_command(child))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


async def test_a_run_ends_in_a_better_variant_on_trial_and_a_record_of_how_it_came_about(
    database_url: str, tmp_path: Path
) -> None:
    async with compiled(database_url, tmp_path / "data") as app:
        compile_id = await asked(app)
        run = await until(app, compile_id, ended)
        assert (run["state"], run["variant"], run["error"]) == ("succeeded", "gepa-1", None)
        assert run["candidate_score"] > run["baseline_score"] + 0.1
        assert run["gate"]["admitted"]
        assert run["gate"]["lower"] > 0
        assert 0 < float(run["spent_usd"]) <= 1
        assert run["progress"]["metric_calls"] > 100
        made = await app.ratchet.store.read(stored_variant, "triage", "gepa-1")
        assert (made.origin, made.compile_id, made.parent) == ("compile", compile_id, "base")
        assert made.scores["holdout"]["candidate"] == run["candidate_score"]
        kinds = {e.event.kind for e in await app.ratchet.store.read(compiles.events_after, compile_id, 0)}
        assert {"started", "baseline", "proposed", "accepted", "holdout", "ended"} <= kinds
        await emptied(tmp_path)
        assert app.ratchet.traffic.program("triage").routing.running is None

        await learn(app.ratchet)
        run = await until(app, compile_id, lambda run: run["experiment_id"] is not None)
        trial = await app.ratchet.store.read(experiments_store.experiment, run["experiment_id"])
        assert (trial.state, trial.champion, trial.challengers) == ("running", "base", ("gepa-1",))
        assert app.ratchet.traffic.program("triage").routing.running == trial.experiment_id
        await learn(app.ratchet)
        assert len(await app.ratchet.store.read(experiments_store.experiments_in, ("running", "draft"))) == 1


async def admitted(app: Application) -> str:
    """The id of a run that ended with a candidate, `better`, without the work."""
    await _variant(app, "better")
    now = app.ratchet.now()
    run = CompileRun(
        compile_id=new_id(),
        program="triage",
        state="queued",
        reason="operator",
        optimizer="gepa",
        champion="base",
        budget=Budget(cost=None, metric_calls=1, time=SECOND),
        created_at=now,
    )

    def ended_well(conn: Connection) -> None:
        compiles.insert_run(conn, run)
        claim = compiles.claim_run(conn, "a", SECOND, now)
        assert claim is not None
        compiles.finish_run(conn, claim, replace(claim.run, state="succeeded", variant="better", finished_at=now))

    await app.ratchet.store.write(ended_well)
    return run.compile_id


async def _variant(app: Application, name: str) -> None:
    body = {"name": name, "instructions": f"Be {name}."}
    (await app.http.post("/v1/programs/triage/variants", json=body)).raise_for_status()


async def _rival(app: Application, **options: Any) -> str:
    """A draft of an experiment with another variant."""
    await _variant(app, "rival")
    body = {"program": "triage", "challengers": ["rival"], **options}
    made = (await app.http.post("/v1/experiments", json=body)).raise_for_status().json()
    return str(made["experiment_id"])


async def test_a_candidate_waits_for_its_trial_while_another_runs_or_acts_are_frozen(sqlite_url: str) -> None:
    async with application(sqlite_url, definitions=PROGRAM) as app:
        rival = await _rival(app)
        await app.http.post(f"/v1/experiments/{rival}/start", json={"reason": "first come"})
        compile_id = await admitted(app)
        await learn(app.ratchet)
        run = await until(app, compile_id, lambda run: run["error"] is not None)
        assert rival in run["error"]
        await app.http.post(f"/v1/experiments/{rival}/stop", json={"reason": "enough"})
        await app.ratchet.store.write(put_setting, FROZEN, "because")
        await learn(app.ratchet)
        run = await until(app, compile_id, lambda run: "frozen" in (run["error"] or ""))
        await app.ratchet.store.write(put_setting, FROZEN, "")
        await learn(app.ratchet)
        run = await until(app, compile_id, lambda run: run["experiment_id"] is not None)
        assert run["error"] is None


async def test_a_candidate_of_a_former_champion_is_left_to_the_operator(sqlite_url: str) -> None:
    async with application(sqlite_url, definitions=PROGRAM) as app:
        compile_id = await admitted(app)
        rival = await _rival(app, holdback=0)
        promoted = await app.http.post(f"/v1/experiments/{rival}/promote", json={"reason": "I know better"})
        assert promoted.status_code == 200, promoted.text
        await learn(app.ratchet)
        run = await until(app, compile_id, lambda run: run["error"] is not None)
        assert "the champion is 'rival' now" in run["error"]
        assert run["experiment_id"] is None


async def test_an_operator_who_is_first_with_the_candidate_keeps_the_trial(sqlite_url: str) -> None:
    async with application(sqlite_url, definitions=PROGRAM) as app:
        compile_id = await admitted(app)
        body = {"program": "triage", "challengers": ["better"]}
        mine = (await app.http.post("/v1/experiments", json=body)).json()["experiment_id"]
        await learn(app.ratchet)
        run = await until(app, compile_id, lambda run: run["experiment_id"] is not None)
        assert run["experiment_id"] == mine
        assert (await app.http.get(f"/v1/experiments/{mine}")).json()["state"] == "draft"


async def test_a_cancelled_run_ends_and_leaves_nothing_behind(sqlite_url: str, tmp_path: Path) -> None:
    async with compiled(sqlite_url, tmp_path / "data", SLOW) as app:
        compile_id = await asked(app)
        await until(app, compile_id, begun)
        (child,) = children()
        answer = await app.http.post(f"/v1/compiles/{compile_id}/cancel")
        assert answer.status_code == 200
        run = await until(app, compile_id, ended)
        assert (run["state"], run["variant"]) == ("cancelled", None)
        assert not child.is_running()
        await emptied(tmp_path)
        assert [variant.name for variant in await app.ratchet.store.read(stored_variants, "triage")] == ["base"]


def _kill(child: psutil.Process) -> None:
    child.send_signal(signal.SIGKILL)


def _fill_its_disk(child: psutil.Process) -> None:
    """From now on it can write nothing."""
    child.rlimit(psutil.RLIMIT_FSIZE, (1, 1))


@pytest.mark.parametrize("harm", [_kill, _fill_its_disk])
async def test_a_child_that_dies_is_started_again_and_goes_on(
    sqlite_url: str, tmp_path: Path, harm: Callable[[psutil.Process], None]
) -> None:
    async with compiled(sqlite_url, tmp_path / "data", SLOW) as app:
        compile_id = await asked(app)
        before = await until(app, compile_id, begun)
        (child,) = children()
        harm(child)
        run = await until(app, compile_id, ended)
        assert (run["state"], run["variant"]) == ("succeeded", "gepa-1")
        assert (await app.ratchet.store.read(compiles.compile_run, compile_id)).attempt == 2
        assert float(run["spent_usd"]) > float(before["spent_usd"]) > 0


async def test_a_child_that_dies_again_and_again_fails_the_run_with_its_last_words(
    sqlite_url: str, tmp_path: Path
) -> None:
    """Where run directories ought to be is a file: as good as a full disk."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "compiles").write_text("in the way")
    async with compiled(sqlite_url, tmp_path / "data") as app:
        run = await until(app, await asked(app), ended)
        assert run["state"] == "failed"
        assert "3 attempts failed" in run["error"]
        assert "Not a directory" in run["error"]


async def test_a_dead_language_model_fails_the_run_and_nothing_is_promoted(sqlite_url: str, tmp_path: Path) -> None:
    dead = PROGRAM.replace(
        "lm: {model: sim/triage, options: {seed: 7},", "lm: {model: sim/triage, options: {seed: 7, error_rate: 1},"
    )
    assert dead != PROGRAM
    async with compiled(sqlite_url, tmp_path / "data", dead) as app:
        run = await until(app, await asked(app), ended)
        assert run["state"] == "failed"
        assert "LM" in run["error"]
        assert run["variant"] is None
        await learn(app.ratchet)
        assert app.ratchet.traffic.program("triage").routing.running is None


async def test_a_candidate_that_does_not_pass_the_gate_is_rejected_with_the_numbers(
    sqlite_url: str, tmp_path: Path
) -> None:
    strict = PROGRAM.replace("      budget_usd: 1\n", "      budget_usd: 1\n      gate: {min_gain: 0.9}\n")
    assert strict != PROGRAM
    async with compiled(sqlite_url, tmp_path / "data", strict) as app:
        run = await until(app, await asked(app), ended)
        assert (run["state"], run["variant"], run["experiment_id"]) == ("rejected", None, None)
        assert not run["gate"]["admitted"]
        assert run["gate"]["faults"]
        assert run["candidate_score"] > run["baseline_score"]
        assert [variant.name for variant in await app.ratchet.store.read(stored_variants, "triage")] == ["base"]


async def test_a_run_outlives_its_server(sqlite_url: str, tmp_path: Path) -> None:
    async with compiled(sqlite_url, tmp_path / "data", SLOW) as app:
        compile_id = await asked(app)
        before = await until(app, compile_id, begun)
        (child,) = children()
    assert not child.is_running()
    async with compiled(sqlite_url, tmp_path / "data", SLOW) as app:
        run = await until(app, compile_id, ended)
        assert run["state"] == "succeeded"
        assert float(run["spent_usd"]) > float(before["spent_usd"])
        assert (await app.ratchet.store.read(compiles.compile_run, compile_id)).attempt == 1


async def test_an_overtaken_runner_stops_its_child_and_writes_no_more(sqlite_url: str, tmp_path: Path) -> None:
    async with compiled(sqlite_url, tmp_path / "data", SLOW) as app:
        compile_id = await asked(app)
        await until(app, compile_id, begun)
        (child,) = children()
        await app.ratchet.store.write(compiles.release_runs)
        claim = await app.ratchet.store.write(compiles.claim_run, "thief", 600 * SECOND, 0)
        assert claim is not None
        for _ in range(200):
            if not child.is_running():
                break
            await asyncio.sleep(0.1)
        assert not child.is_running()
        events = await app.ratchet.store.read(compiles.last_event_number, compile_id)
        await asyncio.sleep(1.5)
        assert children() == []
        assert await app.ratchet.store.read(compiles.last_event_number, compile_id) == events


async def test_of_two_runners_one_carries_a_run_out(postgres_url: str, tmp_path: Path) -> None:
    async with compiled(postgres_url, tmp_path / "data") as app, compiling(app.ratchet):
        run = await until(app, compile_id := await asked(app), ended)
        assert run["state"] == "succeeded"
        assert (await app.ratchet.store.read(compiles.compile_run, compile_id)).attempt == 1
