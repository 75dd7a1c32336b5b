"""A fall that no recompile mended: it is answered again after ever longer rests, until it is mended or lived with."""

from typing import Any

import pytest
from msgspec.structs import replace

from experiments.metrics import Metric
from experiments.quantities import SECOND
from experiments.settings import ExperimentOptions
from learning.compile_runs import CompileRun, RunState
from learning.cycle import Compile, Skip, Wait, plan
from learning.definitions import DriftOptions, LearningOptions, ProgramDefinition
from server.loop.situations import lasting_alarm, situation_of
from server.store.compiles import insert_run
from server.store.drifts import close_alarm, live_with, open_alarms
from tests.server.loop.test_drifting import fallen, run, served, tick
from tests.server.world import World, on

RATES = {"base": 0.9, "other": 0.9}
HOUR = 3600 * SECOND
DEFINITION = ProgramDefinition(
    signature="a -> b",
    lm="sim/triage",
    metrics={"correct": Metric(kind="exact_match", field="b", role="goal", expected="all")},
    experiments=ExperimentOptions(outcome_window=10),
    drift=DriftOptions(min_outcomes=50),
    learning=LearningOptions(on=("drift",), cooldown="1h", min_fresh_labels=10),
)


async def planned(world: World, ahead: int = 0) -> Compile | Wait | Skip:
    """What the learn tick would do, so much later."""
    now = world.now + ahead
    found = await world.store.read(situation_of, "p", DEFINITION, now)
    return plan(found, DEFINITION.learning, now)


async def ran(world: World, alarm: Any, state: RunState = "failed") -> CompileRun:
    """A run that the plan asks for, as it ended, and the tick that hears of it."""
    asked = await planned(world, ahead=100 * HOUR)
    assert isinstance(asked, Compile)
    assert (asked.trigger, asked.alarm, asked.since) == ("drift", alarm.raised_at, alarm.change_point)
    made = run(state, alarm, world.now)
    await world.store.write(insert_run, made)
    await served(world, 40)
    return made


@pytest.mark.parametrize("state", ["failed", "rejected", "cancelled"])
def test_a_fall_that_lasts_is_answered_again_after_one_two_and_four_cooldowns(sqlite_url: str, state: RunState) -> None:
    async def scenario(world: World) -> None:
        alarm = await fallen(world)
        for cooldowns in (1, 2, 4, 8, 8):
            made = await ran(world, alarm, state)
            assert await world.store.read(open_alarms, "p") == []
            assert made.finished_at is not None
            too_soon = await planned(world, made.finished_at - world.now + cooldowns * HOUR - SECOND)
            assert isinstance(too_soon, Wait)
            assert "cool-down" in too_soon.reason
            assert isinstance(await planned(world, made.finished_at - world.now + cooldowns * HOUR), Compile)

    on(sqlite_url, RATES, scenario)


def test_a_score_that_came_back_asks_for_nothing(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        alarm = await fallen(world)
        await ran(world, alarm)
        assert await world.store.read(lasting_alarm, "p", "base") is not None
        world.rates = {**world.rates, "base": 0.95}
        await served(world, 600)
        assert isinstance(await planned(world, 100 * HOUR), Skip)

    on(sqlite_url, RATES, scenario)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_fall_that_an_operator_lives_with_asks_for_nothing_before_or_after_its_run(
    sqlite_url: str, when: str
) -> None:
    async def scenario(world: World) -> None:
        alarm = await fallen(world)
        if when == "before":
            await world.store.write(insert_run, run("failed", alarm, world.now))
            assert await world.store.write(close_alarm, alarm, world.now, "ann: the new product is out")
            await tick(world)
        else:
            await ran(world, alarm)
            lasting = await world.store.read(lasting_alarm, "p", "base")
            assert lasting is not None
            await world.store.write(live_with, lasting, world.now, "ann: the new product is out")
        await served(world, 40)
        told = await planned(world, 100 * HOUR)
        assert isinstance(told, Skip)
        assert told.reason == "no drift alarm"

    on(sqlite_url, RATES, scenario)


def test_a_run_that_names_an_alarm_answers_it_whatever_the_clocks_say(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        alarm = await fallen(world)
        behind = replace(run("queued", alarm, world.now), created_at=alarm.noticed_at - 5 * SECOND)
        await world.store.write(insert_run, behind)
        found = await world.store.read(situation_of, "p", DEFINITION, world.now)
        assert found.alarm is not None
        assert found.alarm.answer == behind.compile_id

    on(sqlite_url, RATES, scenario)
