"""The drift tick on a real database: what it notices, when it begins anew, and that it can be derived again."""

from typing import Any

import pytest
from msgspec.structs import replace

from experiments.decision import Conclude
from experiments.errors import Stale
from experiments.facts import shadow_id
from experiments.metrics import Metric
from experiments.quantities import SECOND
from experiments.settings import ExperimentOptions
from learning.compile_runs import Budget, CompileRun, RunState
from learning.definitions import DriftOptions, ProgramDefinition
from server.clock import new_id
from server.loop import drifting
from server.loop.drifting import Seen, keep, look, rederived
from server.store import Connection
from server.store.compiles import insert_run
from server.store.drifts import (
    AlarmRaised,
    Watched,
    alarms_of,
    close_alarm,
    drift_statuses,
    kept_watch,
    open_alarms,
)
from server.store.tables import drifts
from server.trials import acts
from tests.server.world import METRICS, START, World, on
from tests.store.made import append, prediction

GOOD = {"base": 0.9}
DEFINITION = ProgramDefinition(
    signature="a -> b",
    lm="sim/triage",
    metrics=METRICS,
    experiments=ExperimentOptions(outcome_window=10),
    drift=DriftOptions(min_outcomes=50),
)


async def seen(world: World, definition: ProgramDefinition = DEFINITION) -> Seen:
    """What the tick finds out at this moment of the simulated clock, not kept."""
    return await world.store.read(look, "p", definition, world.now)


async def tick(world: World, definition: ProgramDefinition = DEFINITION) -> list[AlarmRaised]:
    """What the tick does at this moment; returns the alarms that are new."""
    found = await seen(world, definition)
    return [] if found.idle else await world.store.write(keep, "p", found, world.now)


async def served(world: World, predictions: int, seconds: int = 20) -> list[AlarmRaised]:
    """Traffic with a tick every so often, and time for the last outcomes to mature; returns the alarms raised."""
    raised = []
    for _ in range(4):
        await world.traffic(predictions // 4, seconds // 4)
        raised += await tick(world)
    world.now += 12 * SECOND
    return raised + await tick(world)


async def watched(world: World) -> Watched:
    kept = await world.store.read(kept_watch, "p")
    assert kept is not None
    return kept.body


async def fallen(world: World) -> AlarmRaised:
    """A program whose accuracy was good and is bad, and what the alarm about it says."""
    await world.draft(champion="base", challengers=("other",))  # the program is made with it
    await served(world, 600)
    world.rates = {**world.rates, "base": 0.3}
    [alarm] = await served(world, 300)
    return alarm


async def derived_again(world: World) -> bool:
    kept = await watched(world)
    return await world.store.read(rederived, "p", kept) == kept


def test_a_fall_is_noticed_with_when_it_began_and_the_state_can_be_derived_again(database_url: str) -> None:
    async def scenario(world: World) -> None:
        await world.draft(champion="base", challengers=("other",))
        assert await served(world, 600) == []
        assert (await watched(world)).status == "ok"
        shifted = world.now
        world.rates = {**world.rates, "base": 0.3}
        [alarm] = await served(world, 300)
        assert (alarm.variant, alarm.signal, alarm.closed_at) == ("base", "score", None)
        assert abs(alarm.change_point - shifted) < 20 * SECOND, "there was a pause of 12 s in the traffic"
        assert alarm.raised_at > alarm.change_point
        assert alarm.reading.baseline == pytest.approx(0.9, abs=0.05)
        assert (await watched(world)).status == "alarm"
        assert await world.store.read(open_alarms, "p") == [alarm]
        assert await served(world, 100) == [], "it is latched"
        assert await derived_again(world)

    on(database_url, {**GOOD, "other": 0.9}, scenario)


def test_when_ticks_happen_makes_no_difference(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        await fallen(world)
        often = await watched(world)
        assert await world.store.read(_at_once, often) == often.state

    def _at_once(conn: Connection, often: Watched) -> Any:
        [turn] = often.turns
        assert turn.at == START
        return rederived(conn, "p", often).state

    on(sqlite_url, {**GOOD, "other": 0.9}, scenario)


@pytest.mark.parametrize("size", [1, 7])
def test_pages_may_be_small_and_end_among_predictions_of_one_moment(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    async def scenario(world: World) -> None:
        await world.draft(champion="base", challengers=("other",))
        at = world.now + SECOND
        moments = [at + n // 5 for n in range(40)]
        facts = [
            prediction(
                program="p",
                experiment_id=None,
                unit_hash=f"{n}",
                assigned_variant="base",
                created_at=moment,
                answered_at=moment,
            )
            for n, moment in enumerate(moments)
        ]
        await append(world.store, *facts)
        world.now += 30 * SECOND
        whole = (await seen(world)).after
        monkeypatch.setattr(drifting, "PAGE", size)
        assert (await seen(world)).after == whole
        assert sum(hour.made for hour in whole.hours) == 40

    on(sqlite_url, {**GOOD, "other": 0.9}, scenario)


def test_two_ticks_at_a_time_count_nothing_twice(database_url: str) -> None:
    async def scenario(world: World) -> None:
        await world.draft(champion="base", challengers=("other",))
        await served(world, 100)
        await world.traffic(100, 10)
        world.now += 12 * SECOND
        one, other = await seen(world), await seen(world)
        await world.store.write(keep, "p", one, world.now)
        with pytest.raises(Stale, match="by another process"):
            await world.store.write(keep, "p", other, world.now)
        assert sum(hour.made for hour in (await watched(world)).hours) == 200

    on(database_url, {**GOOD, "other": 0.9}, scenario)


def test_a_promotion_closes_the_alarm_and_begins_from_what_the_experiment_saw(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        await fallen(world)
        experiment = await world.begin(champion="base", challengers=("other",), holdback=0)
        ruling = await world.until_verdict(experiment)
        assert isinstance(ruling, Conclude)
        assert ruling.verdict == "promote"
        await tick(world)
        [alarm] = await world.store.read(alarms_of, "p")
        assert alarm.closed_by == "'other' is the champion now"
        assert alarm.closed_at == world.now
        began = await watched(world)
        assert began.state.champion == "other"
        [score] = [r for r in began.readings if r.signal == "score"]
        assert (score.variant, score.alarm_at) == ("other", None)
        assert score.outcomes >= 100, "its outcomes in the experiment count"
        assert score.baseline == pytest.approx(0.9, abs=0.1)
        assert await served(world, 300) == []
        assert await derived_again(world)

    on(sqlite_url, {**GOOD, "other": 0.9}, scenario)


@pytest.mark.parametrize("state", ["rejected", "failed", "cancelled"])
def test_a_run_that_brought_nothing_closes_its_alarm_and_the_level_is_lived_with(
    sqlite_url: str, state: RunState
) -> None:
    async def scenario(world: World) -> None:
        alarm = await fallen(world)
        ran = run(state, alarm, world.now)
        await world.store.write(insert_run, ran)
        await served(world, 100)
        [closed] = await world.store.read(alarms_of, "p")
        assert closed.closed_by == f"compile run {ran.compile_id} was {state}"
        now = await watched(world)
        assert now.status != "alarm"
        [score] = [r for r in now.readings if (r.variant, r.signal) == ("base", "score")]
        assert score.floor is not None
        assert score.floor > 0.7, "what was given up stays on record"
        assert await served(world, 200) == []
        assert await derived_again(world)

    on(sqlite_url, {**GOOD, "other": 0.9}, scenario)


def test_while_its_run_is_under_way_an_alarm_stands(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        alarm = await fallen(world)
        await world.store.write(insert_run, run("queued", alarm, world.now))
        await served(world, 100)
        assert await world.store.read(open_alarms, "p") == [alarm]
        assert (await watched(world)).status == "alarm"

    on(sqlite_url, {**GOOD, "other": 0.9}, scenario)


def test_an_alarm_that_an_operator_closed_is_lived_with(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        alarm = await fallen(world)
        await world.store.write(close_alarm, alarm, world.now, "ann: the new product is out")
        await served(world, 100)
        assert (await watched(world)).status != "alarm"
        [closed] = await world.store.read(alarms_of, "p")
        assert closed.closed_by == "ann: the new product is out"
        world.rates = {**world.rates, "base": 0.0}
        [second] = await served(world, 400)
        assert second.raised_at > alarm.raised_at
        assert await derived_again(world)

    on(sqlite_url, {**GOOD, "other": 0.9}, scenario)


def test_scores_that_mean_something_else_begin_anew(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        await fallen(world)
        otherwise = replace(DEFINITION, metrics={**METRICS, "correct": Metric(kind="boolean", role="goal")})
        changed_at = world.now
        await tick(world, otherwise)
        [alarm] = await world.store.read(alarms_of, "p")
        assert alarm.closed_by == "what a score means was changed"
        began = await watched(world)
        assert (began.since, began.status) == (changed_at, "warming")
        await world.traffic(100, 10)
        world.now += 12 * SECOND
        await tick(world, otherwise)
        assert sum(hour.made for hour in (await watched(world)).hours) == 100

    on(sqlite_url, {**GOOD, "other": 0.9}, scenario)


def test_other_tolerances_hold_from_now_on_and_keep_what_was_learned(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        await world.draft(champion="base", challengers=("other",))
        await served(world, 600)
        before = await watched(world)
        patient = replace(DEFINITION, drift=DriftOptions(min_outcomes=50, tolerated_drop=0.1))
        await tick(world, patient)
        after = await watched(world)
        assert (after.since, after.state.watches) == (before.since, before.state.watches)
        assert after.policy.tolerated_drop == 0.1
        await world.traffic(100, 10)
        world.now += 12 * SECOND
        await tick(world, patient)
        assert len((await watched(world)).turns) == 2
        assert await derived_again(world)

    on(sqlite_url, {**GOOD, "other": 0.9}, scenario)


def test_what_was_pinned_or_not_served_counts_nowhere(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        await world.draft(champion="base", challengers=("other",))
        at = world.now + SECOND
        kinds: list[dict[str, Any]] = [
            {"assigned_variant": "base", "variant": "base"},
            {"assigned_variant": "other", "variant": "other"},  # pinned
            {"prediction_id": shadow_id(new_id()), "assigned_variant": "base", "variant": "base"},
            {"assigned_variant": "base", "variant": None, "status": "error", "error": "lm-failed"},
        ]
        facts = [
            prediction(program="p", experiment_id=None, unit_hash=f"{n}", created_at=at + n, answered_at=at + n, **kind)
            for n, kind in enumerate(kinds)
        ]
        await append(world.store, *facts)
        world.now += 30 * SECOND
        await tick(world)
        now = await watched(world)
        outcomes = {(r.variant, r.signal): r.outcomes for r in now.readings}
        assert set(now.state.seen) == {"base"}
        assert outcomes["base", "errors"] == 2
        assert outcomes["base", "score"] == 2, "nobody answered: under `expected: all` both are the worst"

    on(sqlite_url, {**GOOD, "other": 0.9}, scenario)


def test_a_challengers_failures_are_its_own(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await world.begin(champion="base", challengers=("other",))
        await world.traffic(200, 10)
        at = world.now
        fallback = prediction(
            program="p",
            experiment_id=experiment.experiment_id,
            epoch=2,
            assigned_variant="other",
            variant="base",
            status="fallback",
            created_at=at,
            answered_at=at,
        )
        await append(world.store, fallback)
        world.now += 30 * SECOND
        await tick(world)
        errors = {r.variant: r.score for r in (await watched(world)).readings if r.signal == "errors"}
        seen_ = {r.variant: r.outcomes for r in (await watched(world)).readings if r.signal == "errors"}
        assert sum(seen_.values()) == 201
        assert errors["base"] == 1.0

    on(sqlite_url, {**GOOD, "other": 0.9}, scenario)


def test_an_arm_goes_when_its_experiment_has_ended(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await world.begin(champion="base", challengers=("other",))
        await served(world, 200)
        assert set((await watched(world)).state.seen) == {"base", "other"}
        await world.store.write(acts.stop, world.act(experiment.experiment_id))
        await served(world, 100)
        assert set((await watched(world)).state.seen) == {"base"}
        assert await derived_again(world)

    on(sqlite_url, {**GOOD, "other": 0.9}, scenario)


def test_a_state_that_cannot_be_read_is_made_again_from_the_facts(database_url: str) -> None:
    async def scenario(world: World) -> None:
        await world.draft(champion="base", challengers=("other",))
        await served(world, 200)
        before = await watched(world)

        def spoil(conn: Connection) -> None:
            conn.execute(drifts.update().values(body='{"of": "another version"}'))

        await world.store.write(spoil)
        assert await world.store.read(drift_statuses) == {}
        await tick(world)
        assert (await watched(world)).state == before.state

    on(database_url, {**GOOD, "other": 0.9}, scenario)


def run(state: RunState, alarm: AlarmRaised, now: int) -> CompileRun:
    """A compile run that the alarm asked for."""
    return CompileRun(
        compile_id=new_id(),
        program="p",
        state=state,
        reason="drift",
        optimizer="gepa",
        champion="base",
        alarm=alarm.raised_at,
        budget=Budget(cost=None, metric_calls=100, time=SECOND),
        created_at=now,
        finished_at=None if state == "queued" else now,
    )
