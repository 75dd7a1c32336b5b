"""The holdback after a promotion on a real database: harm takes it back, and nothing else does."""

from typing import Any

import pytest

from experiments.assignment import Routing, route
from experiments.decision import Conclude
from experiments.errors import Stale
from experiments.experiment import Experiment, Holdback
from experiments.holdback import End, Revert, latch, watched
from experiments.quantities import SECOND
from server.store import experiments as store
from server.store.routings import routing_in_force
from server.store.upkeep import put_setting
from server.trials import acts, watching
from server.trials.replay import replay
from server.trials.reports import report_of
from server.trials.ticking import FROZEN, fold, register
from tests.server.world import World, on

BETTER = {"base": 0.5, "new": 0.85}
WORSE = {"base": 0.85, "new": 0.5}


async def promoted(world: World, **options: Any) -> Experiment:
    """An experiment whose challenger was promoted, a third held back unless told otherwise."""
    experiment = await world.begin(**{"holdback": 0.3, **options})
    ruling = await world.until_verdict(experiment)
    assert isinstance(ruling, Conclude)
    assert ruling.verdict == "promote"
    return await world.store.read(store.experiment, experiment.experiment_id)


async def in_force(world: World) -> Routing:
    routing = await world.store.read(routing_in_force, "p")
    assert routing is not None
    return routing


async def holdback_of(world: World, experiment: Experiment) -> Holdback:
    held = (await world.store.read(store.experiment, experiment.experiment_id)).holdback
    assert held is not None
    return held


def test_after_a_promotion_the_former_champion_keeps_its_share_under_the_same_experiment(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await promoted(world, holdback=0.1)
        routing = await in_force(world)
        met = [route(routing, f"unit-{n}") for n in range(2000)]
        held = [given for given in met if given.variant == "base"]
        assert {given.propensity for given in held} == {0.1}
        assert {given.experiment_id for given in met} == {experiment.experiment_id}
        assert 140 < len(held) < 260
        assert (experiment.state, experiment.verdict, experiment.rolled_back) == ("concluded", "promote", False)

    on(sqlite_url, BETTER, scenario)


@pytest.mark.parametrize("randomize", ["request", "unit"])
def test_proven_harm_takes_the_promotion_back_by_itself_and_the_replay_agrees(
    database_url: str, randomize: str
) -> None:
    async def scenario(world: World) -> None:
        experiment = await promoted(world, randomize=randomize)
        concluded_with = (await world.store.read(report_of, experiment.experiment_id, world.now)).arms
        world.rates = WORSE
        ruling = await world.until_watched(experiment)
        assert isinstance(ruling, Revert), ruling
        assert "'new' is worse than 'base', the former champion, on 'correct'" in ruling.reason

        routing = await in_force(world)
        assert (routing.champion, routing.experiment_id, routing.split) == ("base", None, {})
        ended = await world.store.read(store.experiment, experiment.experiment_id)
        assert (ended.state, ended.verdict, ended.rolled_back) == ("concluded", "promote", True)
        assert (await world.store.read(store.promotions_of, "p"))[0].rolled_back_at == world.now
        promotion, rollback = await world.store.read(store.decisions_of, experiment.experiment_id)
        assert (promotion.by, rollback.by, rollback.verdict) == ("engine", "holdback", "rollback")
        assert rollback.split_before == {"new": 0.7, "base": 0.3}
        (level,) = await world.store.read(store.levels_of, "p")
        assert level.rejected, "a later rollback takes no discovery back"

        report = await world.store.read(report_of, experiment.experiment_id, world.now)
        assert report.holdback is not None
        assert report.holdback.state == "rolled_back"
        assert report.holdback.log_e_harm is not None
        assert report.holdback.log_e_harm >= 3
        assert [arm.assigned for arm in report.arms] == [arm.assigned for arm in concluded_with]

        again = await world.store.read(replay, experiment.experiment_id)
        assert again.decisions == 2
        assert again.differences == ()

    on(database_url, BETTER, scenario)


def test_a_holdback_without_harm_passes_at_its_planned_size(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await promoted(world, holdback_units=200)
        ruling = await world.until_watched(experiment)
        assert isinstance(ruling, End)
        assert ruling.passed
        assert (await holdback_of(world, experiment)).state == "passed"
        assert ((await in_force(world)).champion, (await in_force(world)).live) == ("new", False)
        report = await world.store.read(report_of, experiment.experiment_id, world.now)
        assert report.holdback is not None
        assert (report.holdback.share, report.holdback.units >= 200) == (0.3, True)
        taken_back = await world.store.write(acts.rollback, world.act(experiment.experiment_id, "regretted"))
        assert taken_back.rolled_back
        assert (await holdback_of(world, experiment)).state == "passed"
        assert (await world.store.read(replay, experiment.experiment_id)).differences == ()

    on(sqlite_url, BETTER, scenario)


def test_while_frozen_harm_is_seen_and_kept_and_acted_on_once_thawed(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await promoted(world)
        await world.store.write(put_setting, FROZEN, '{"reason": "deploying"}')
        world.rates = WORSE
        assert isinstance(await world.until_watched(experiment), Revert)
        assert (await holdback_of(world, experiment)).state == "running"
        assert (await in_force(world)).champion == "new"
        world.rates = BETTER
        for _ in range(10):
            await world.traffic(100, 3)
            assert isinstance(await world.watch(experiment), Revert), "what was proven stays proven"
        await world.store.write(put_setting, FROZEN, "")
        await world.watch(experiment)
        assert (await in_force(world)).champion == "base"
        assert (await world.store.read(replay, experiment.experiment_id)).differences == ()

    on(sqlite_url, BETTER, scenario)


def test_a_holdback_goes_on_where_it_was_after_a_restart(sqlite_url: str) -> None:
    async def before(world: World) -> None:
        experiment = await promoted(world)
        world.rates = WORSE
        await world.traffic(60, 12)
        await world.watch(experiment)
        found.append((experiment, world.now, world.units))

    async def after(world: World) -> None:
        (experiment, world.now, world.units) = found[0]
        assert [held.experiment_id for held in await world.store.read(watching.held_back)] == [experiment.experiment_id]
        units = (await world.store.read(report_of, experiment.experiment_id, world.now)).holdback
        assert units is not None
        assert units.units > 0
        assert isinstance(await world.until_watched(experiment), Revert)
        assert (await world.store.read(replay, experiment.experiment_id)).differences == ()

    found: list[tuple[Experiment, int, int]] = []
    on(sqlite_url, BETTER, before)
    on(sqlite_url, WORSE, after)


def test_two_schedulers_on_the_same_harm_roll_back_once(database_url: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await promoted(world)
        world.rates = {"base": 0.95, "new": 0.3}
        for _ in range(8):
            await world.traffic(100, 3)
        world.now += 20 * SECOND
        trial = watched(experiment)
        await world.store.write(register, trial, world.now)
        one, other = [await world.store.read(fold, trial, world.now, latch) for _ in range(2)]
        await world.store.write(watching.settle, experiment, one, world.now, world.now)
        with pytest.raises(Stale):
            await world.store.write(watching.settle, experiment, other, world.now, world.now + 1)
        assert len(await world.store.read(store.decisions_of, experiment.experiment_id)) == 2

    on(database_url, BETTER, scenario)


def test_a_persons_promotion_is_watched_too_even_of_a_draft_that_never_ran(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        draft = await world.draft(holdback=0.3)
        await world.store.write(acts.promote, world.act(draft.experiment_id, "sure"), "new")
        assert (await in_force(world)).split == {"new": 0.7, "base": 0.3}
        assert isinstance(await world.until_watched(draft), Revert)
        assert (await in_force(world)).champion == "base"
        again = await world.store.read(replay, draft.experiment_id)
        assert (again.decisions, again.differences) == (1, ())

    on(sqlite_url, WORSE, scenario)


@pytest.mark.parametrize("how", ["rollback", "start", "promote"])
def test_a_rollback_by_hand_and_whatever_comes_next_end_the_holdback(sqlite_url: str, how: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await promoted(world)
        if how == "rollback":
            await world.store.write(acts.rollback, world.act(experiment.experiment_id))
            assert (await in_force(world)).champion == "base"
        else:
            second = await world.draft(champion="new", challengers=("base",))
            act = world.act(second.experiment_id)
            if how == "start":
                await world.store.write(acts.start, act)
            else:
                await world.store.write(acts.promote, act, "base")
        assert (await holdback_of(world, experiment)).state == "ended"
        assert not isinstance(await world.watch(experiment), Revert)

    on(sqlite_url, BETTER, scenario)


def test_no_holdback_gives_the_promoted_variant_everything_at_once(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await promoted(world, holdback=0)
        routing = await in_force(world)
        assert (routing.champion, routing.experiment_id, routing.split) == ("new", None, {})
        report = await world.store.read(report_of, experiment.experiment_id, world.now)
        assert report.holdback is None

    on(sqlite_url, BETTER, scenario)
