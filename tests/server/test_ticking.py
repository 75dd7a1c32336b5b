"""The life of an experiment on a real database: start, fold, decide, act, and the same again from the raw rows."""

from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from experiments.assignment import route
from experiments.betting import Betting
from experiments.decision import Conclude, Drop, Step
from experiments.errors import Conflict, Invalid, Stale
from experiments.experiment import ENGINE, Experiment
from experiments.folding import Evidence
from experiments.quantities import SECOND
from server.clock import new_id
from server.store import Connection
from server.store import experiments as store
from server.store.blocks import closed_blocks, kept_evidence
from server.store.clusters import unit_sums
from server.store.routings import routing_in_force, splits_by_epoch
from server.store.rows import encode
from server.store.tables import contents, decisions, outcomes, predictions
from server.store.upkeep import put_setting
from server.trials import acts
from server.trials.replay import replay
from server.trials.reports import report_of
from server.trials.ticking import FROZEN, fold, register, settle
from tests.server.world import World, on


@pytest.mark.parametrize("randomize", ["request", "unit"])
def test_a_better_challenger_is_promoted_and_the_replay_agrees_digit_for_digit(
    database_url: str, randomize: str
) -> None:
    async def scenario(world: World) -> None:
        experiment = await world.begin(randomize=randomize)
        returning = (lambda n: f"unit-{n % 97 + n // 970 * 97}") if randomize == "unit" else None
        ruling = await world.until_verdict(experiment, unit=returning)
        assert isinstance(ruling, Conclude), ruling
        assert ruling.verdict == "promote"

        routing = await world.store.read(routing_in_force, "p")
        assert routing is not None
        assert (routing.champion, routing.running, routing.split) == ("new", None, {"new": 0.95, "base": 0.05})
        ended = await world.store.read(store.experiment, experiment.experiment_id)
        assert (ended.state, ended.verdict) == ("concluded", "promote")
        (decision,) = await world.store.read(store.decisions_of, experiment.experiment_id)
        assert decision.split_before == {"base": 0.5, "new": 0.5}
        assert decision.split_after == routing.split
        (level,) = await world.store.read(store.levels_of, "p")
        assert level.rejected
        assert (await world.store.read(store.promotions_of, "p"))[0].to_variant == "new"

        again = await world.store.read(replay, experiment.experiment_id)
        assert again.decisions == 1
        assert again.blocks > 5
        assert again.differences == ()

    on(database_url, {"base": 0.5, "new": 0.85}, scenario)


def test_a_replay_notices_a_single_changed_row(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await world.begin()
        await world.until_verdict(experiment)
        victim = sa.select(outcomes.c.prediction_id).where(outcomes.c.value == 1.0).limit(1).scalar_subquery()
        forged = outcomes.update().where(outcomes.c.prediction_id == victim).values(value=0.0)
        await world.store.write(lambda conn: conn.execute(forged).rowcount)
        assert not (await world.store.read(replay, experiment.experiment_id)).agrees

    on(sqlite_url, {"base": 0.5, "new": 0.85}, scenario)


@pytest.mark.parametrize("randomize", ["request", "unit"])
def test_covariates_count_from_the_facts_alone_and_are_replayed_digit_for_digit(
    database_url: str, randomize: str
) -> None:
    """Also through the holdback; a covariate that was changed afterwards is noticed."""

    def known(number: int) -> dict[str, float | str]:
        """A stratum, a number, and now and then nothing."""
        return {} if number % 11 == 0 else {"kind": "abc"[number % 3], "size": float(number % 7)}

    async def scenario(world: World) -> None:
        experiment = await world.begin(randomize=randomize, covariates=("kind", "size"), holdback=0.3)
        routing = await world.store.read(routing_in_force, "p")
        assert routing is not None
        assert routing.covariates == ("kind", "size")
        returning = (lambda n: f"unit-{n % 97 + n // 970 * 97}") if randomize == "unit" else None
        ruling = await world.until_verdict(experiment, unit=returning, known=known)
        assert isinstance(ruling, Conclude), ruling
        assert ruling.verdict == "promote"
        kept = await world.store.read(kept_evidence, experiment.experiment_id, Evidence)
        assert kept is not None
        goal = kept.body.comparisons[0].process
        assert isinstance(goal, Betting)
        assert goal.fit is not None
        assert set(goal.fit.texts[0]) == {"a", "b", "c"}
        watching = await world.store.read(routing_in_force, "p")
        assert watching is not None
        assert (watching.state, watching.covariates) == ("holdback", ("kind", "size"))
        await world.store.write(lambda conn: conn.execute(contents.delete()).rowcount)
        assert (await world.store.read(replay, experiment.experiment_id)).differences == ()
        forged = predictions.update().where(predictions.c.covariates.like('%"a"%')).values(covariates='{"kind":"z"}')
        await world.store.write(lambda conn: conn.execute(forged).rowcount)
        assert not (await world.store.read(replay, experiment.experiment_id)).agrees

    on(database_url, {"base": 0.5, "new": 0.85}, scenario)


def test_how_often_one_looks_changes_nothing(sqlite_url: str) -> None:
    """Facts folded tick by tick, and the same facts folded in one go by a replay at the end, give equal evidence."""

    async def scenario(world: World) -> None:
        experiment = await world.begin(max_units=1000, min_effect=0.001)
        ruling = await world.until_verdict(experiment)
        assert isinstance(ruling, Conclude)
        assert ruling.verdict == "inconclusive"
        assert (await world.store.read(replay, experiment.experiment_id)).agrees

    on(sqlite_url, {"base": 0.5, "new": 0.5}, scenario)


def test_a_ramped_restarted_experiment_with_late_and_missing_outcomes_replays_exactly(database_url: str) -> None:
    returning: dict[str, Any] = {"unit": lambda n: f"unit-{n % 61 + n // 610 * 61}"}
    rates = {"base": 0.4, "new": 0.9}
    found: list[tuple[Experiment, int, int]] = []

    def unsteady(world: World) -> None:
        """Outcomes come soon, late, after their window, or never."""
        world.delay = lambda: world.random.choice([1, 2, 4, 9, 15, None])

    async def before(world: World) -> None:
        unsteady(world)
        ramp = {"ramp": (0.2, 0.5), "split": {"champion": 0.8, "challenger": 0.2}, "ramp_units": 60}
        experiment = await world.begin(randomize="unit", max_units=6000, **ramp)
        assert isinstance(await world.until(experiment, Step, **returning), Step)
        await world.traffic(150, 4, **returning)
        found.append((experiment, world.now, world.units))

    async def after(world: World) -> None:
        unsteady(world)
        (experiment, world.now, world.units) = found[0]
        ruling = await world.until_verdict(experiment, rounds=150, **returning)
        assert isinstance(ruling, Conclude), ruling
        assert ruling.verdict == "promote"
        assert len(await world.store.read(splits_by_epoch, experiment.experiment_id)) > 1
        report = await world.store.read(report_of, experiment.experiment_id, world.now)
        assert all(arm.late > 0 and arm.missing > 0 for arm in report.arms)
        clustered = report.comparisons[0].clustered
        assert clustered is not None
        assert (clustered.estimate is None) == (clustered.refused is not None)
        sums = await world.store.read(unit_sums, experiment, world.now)
        scored = {arm: sum(row.n for row in sums if row.arm == arm) for arm in rates}
        assert scored == {arm.variant: arm.matured for arm in report.arms}

    async def later(world: World) -> None:
        again = await world.store.read(replay, found[0][0].experiment_id)
        assert (again.decisions, again.differences) == (1, ())

    for scenario in (before, after, later):
        on(database_url, rates, scenario)


def test_a_worse_challenger_is_rolled_back_and_traffic_returns(database_url: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await world.begin()
        ruling = await world.until_verdict(experiment)
        assert isinstance(ruling, Conclude)
        assert ruling.verdict == "rollback"
        routing = await world.store.read(routing_in_force, "p")
        assert routing is not None
        assert (routing.champion, routing.live) == ("base", False)

    on(database_url, {"base": 0.85, "new": 0.5}, scenario)


def test_a_harmful_challenger_of_several_leaves_the_traffic_and_the_others_go_on(database_url: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await world.begin()
        assert isinstance(await world.until(experiment, Drop), Drop)
        routing = await world.store.read(routing_in_force, "p")
        assert routing is not None
        assert routing.split == {"base": 0.75, "good": 0.25, "bad": 0.0}
        assert "'bad' is worse on 'correct'" in routing.reason
        assert "bad" not in {route(routing, f"unit-{n}").variant for n in range(500)}
        assert (await world.store.read(store.experiment, experiment.experiment_id)).state == "running"

        by_hand = {"base": 0.5, "good": 0.5}
        with pytest.raises(Invalid, match="'bad' proved harmful and is off traffic"):
            await world.store.write(acts.reshare, world.act(experiment.experiment_id), {**by_hand, "bad": 0.1})
        await world.store.write(acts.reshare, world.act(experiment.experiment_id), by_hand)
        ruling = await world.until_verdict(experiment)
        assert isinstance(ruling, Conclude)
        assert (ruling.verdict, ruling.challenger) == ("promote", "good")
        report = await world.store.read(report_of, experiment.experiment_id, world.now)
        assert [arm.split for arm in report.arms] == [0.05, 0.95, 0.0]
        assert (await world.store.read(replay, experiment.experiment_id)).differences == ()

    on(database_url, {"base": 0.6, "good": 0.85, "bad": 0.1}, scenario)


@pytest.mark.parametrize("randomize", ["request", "unit"])
def test_shares_that_follow_the_evidence_are_logged_and_replayed(database_url: str, randomize: str) -> None:
    async def scenario(world: World) -> None:
        options = {"randomize": randomize, "ramp_units": 30, "min_units": 40, "min_effect": 0.001}
        experiment = await world.begin(allocation="adaptive", **options)
        returning = (lambda n: f"unit-{n % 97 + n // 970 * 97}") if randomize == "unit" else None
        assert isinstance(await world.until(experiment, Step, unit=returning), Step)
        await world.traffic(100, 3, unit=returning)
        await world.tick(experiment)
        await world.store.write(acts.stop, world.act(experiment.experiment_id))
        splits = await world.store.read(splits_by_epoch, experiment.experiment_id)
        shares = [splits[epoch]["new"] for epoch in sorted(splits)]
        assert len(set(shares)) > 1
        assert shares[0] == 0.5
        logged = sa.select(predictions.c.propensity).where(predictions.c.assigned_variant == "new").distinct()
        found = await world.store.read(lambda conn: conn.execute(logged).scalars().all())
        assert set(found) <= set(shares)
        assert (await world.store.read(replay, experiment.experiment_id)).differences == ()

    on(database_url, {"base": 0.6, "new": 0.6}, scenario)


def test_a_recommended_promotion_is_recorded_once_and_left_to_a_person(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await world.begin(promotion="recommend")
        await world.until_verdict(experiment)
        await world.tick(experiment)
        decisions = await world.store.read(store.decisions_of, experiment.experiment_id)
        assert [(d.verdict, d.by) for d in decisions] == [("promote", "engine")]
        assert (await world.store.read(store.experiment, experiment.experiment_id)).state == "running"
        report = await world.store.read(report_of, experiment.experiment_id, world.now)
        assert report.recommended_action == "promote new"

        await world.store.write(acts.promote, world.act(experiment.experiment_id, "looks right"), None)
        (level,) = await world.store.read(store.levels_of, "p")
        assert not level.rejected, "a person's promotion is no discovery of the series"
        assert (await world.store.read(replay, experiment.experiment_id)).agrees

    on(sqlite_url, {"base": 0.5, "new": 0.85}, scenario)


def test_while_a_recommendation_waits_no_more_units_enter_than_were_planned(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await world.begin(promotion="recommend", max_units=600, min_units=50)
        await world.until_verdict(experiment)
        for _ in range(6):
            await world.traffic(100, 3)
            await world.tick(experiment)
        routing = await world.store.read(routing_in_force, "p")
        assert routing is not None
        assert (routing.state, routing.experiment_id) == ("full", experiment.experiment_id)
        decisions = await world.store.read(store.decisions_of, experiment.experiment_id)
        assert [(d.verdict, d.by) for d in decisions] == [("promote", "engine")]

    on(sqlite_url, {"base": 0.5, "new": 0.85}, scenario)


def test_while_frozen_evidence_is_folded_and_nothing_is_done(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await world.begin()
        await world.store.write(put_setting, FROZEN, '{"reason": "deploying"}')
        ruling = await world.until_verdict(experiment)
        assert isinstance(ruling, Conclude)
        assert (await world.store.read(store.experiment, experiment.experiment_id)).state == "running"
        assert await world.store.read(closed_blocks, experiment.experiment_id)
        await world.store.write(put_setting, FROZEN, "")
        await world.tick(experiment)
        assert (await world.store.read(store.experiment, experiment.experiment_id)).verdict == ruling.verdict

    on(sqlite_url, {"base": 0.5, "new": 0.85}, scenario)


def test_pause_and_resume_keep_every_assignment(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await world.begin(randomize="unit")
        before = await world.store.read(routing_in_force, "p")
        await world.store.write(acts.pause, world.act(experiment.experiment_id))
        paused = await world.store.read(routing_in_force, "p")
        assert paused is not None
        assert {route(paused, f"u{n}").variant for n in range(100)} == {"base"}
        await world.store.write(acts.resume, world.act(experiment.experiment_id))
        after = await world.store.read(routing_in_force, "p")
        assert before is not None
        assert after is not None
        assert after.epoch == before.epoch + 2
        assert [route(after, f"u{n}").variant for n in range(500)] == [
            route(before, f"u{n}").variant for n in range(500)
        ]

    on(sqlite_url, {"base": 0.5, "new": 0.5}, scenario)


def test_two_schedulers_on_the_same_facts_decide_once(database_url: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await world.begin()
        for _ in range(8):
            await world.traffic(100, 3)
        world.now += 20 * SECOND
        await world.store.write(register, experiment, world.now)
        one = await world.store.read(fold, experiment, world.now)
        other = await world.store.read(fold, experiment, world.now)
        await world.store.write(settle, experiment, one, world.now, world.now)
        with pytest.raises(Stale):
            await world.store.write(settle, experiment, other, world.now, world.now + 1)
        assert len(await world.store.read(store.decisions_of, experiment.experiment_id)) == 1

    on(database_url, {"base": 0.3, "new": 0.95}, scenario)


def test_a_program_has_one_running_experiment_and_a_rollback_returns_the_former_champion(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await world.begin()
        second = msgspec.structs.replace(experiment, experiment_id=new_id(), state="draft", version=1, started_at=None)
        await world.store.write(store.insert_experiment, second)
        with pytest.raises(Conflict, match="running or paused"):
            await world.store.write(acts.start, world.act(second.experiment_id))

        await world.store.write(acts.promote, world.act(experiment.experiment_id, "sure"), "new")
        with pytest.raises(Conflict, match="champion is now 'new'"):
            await world.store.write(acts.start, world.act(second.experiment_id))
        taken_back = await world.store.write(acts.rollback, world.act(experiment.experiment_id, "regretted"))
        assert (taken_back.verdict, taken_back.rolled_back) == ("promote", True)
        routing = await world.store.read(routing_in_force, "p")
        assert routing is not None
        assert routing.champion == "base"
        with pytest.raises(Conflict, match="no promotion to take back"):
            await world.store.write(acts.rollback, world.act(experiment.experiment_id))

    on(sqlite_url, {"base": 0.5, "new": 0.5}, scenario)


def test_levels_follow_the_series_and_a_new_alpha_opens_another(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await world.begin()
        for alpha in (0.05, 0.05, 0.1):
            await world.store.write(acts.stop, world.act(experiment.experiment_id))
            settings = msgspec.structs.replace(experiment.settings, alpha=alpha)
            experiment = msgspec.structs.replace(
                experiment, experiment_id=new_id(), state="draft", version=1, started_at=None, settings=settings
            )
            await world.store.write(store.insert_experiment, experiment)
            await world.store.write(acts.start, world.act(experiment.experiment_id))
        levels = await world.store.read(store.levels_of, "p")
        assert [(level.series, level.t) for level in levels] == [(1, 1), (1, 2), (1, 3), (2, 1)]
        assert levels[0].level > levels[1].level > levels[2].level
        assert levels[3].level == pytest.approx(2 * levels[0].level)

    on(sqlite_url, {"base": 0.5, "new": 0.5}, scenario)


@pytest.mark.parametrize(("off", "agrees"), [(1e-13, True), (1e-6, False)])
def test_a_replay_tells_rounding_from_a_difference(sqlite_url: str, off: float, agrees: bool) -> None:
    async def scenario(world: World) -> None:
        experiment = await world.begin()
        await world.until_verdict(experiment)

        def nudge(conn: Connection) -> None:
            """As if a processor that rounds otherwise had decided."""
            (decision,) = store.decisions_of(conn, experiment.experiment_id)
            told = msgspec.json.decode(msgspec.json.encode(decision.evidence))
            told["comparisons"][0]["log_e_better"] *= 1 + off
            nudged = encode(msgspec.structs.replace(decision, evidence=told))
            conn.execute(decisions.update().values(body=nudged))

        assert (await world.store.read(replay, experiment.experiment_id)).rounding == 0
        await world.store.write(nudge)
        again = await world.store.read(replay, experiment.experiment_id)
        assert again.agrees == agrees
        assert (again.rounding > 0) == agrees
        assert (
            [difference.place for difference in again.differences] == [] if agrees else ["/comparisons/0/log_e_better"]
        )

    on(sqlite_url, {"base": 0.5, "new": 0.85}, scenario)


def test_a_replay_by_another_engine_says_that_it_proves_nothing(sqlite_url: str) -> None:
    async def scenario(world: World) -> None:
        experiment = await world.begin()
        await world.until_verdict(experiment)

        def age(conn: Connection) -> None:
            """As if an earlier version had decided."""
            (decision,) = store.decisions_of(conn, experiment.experiment_id)
            older = encode(msgspec.structs.replace(decision, engine=ENGINE - 1))
            conn.execute(decisions.update().values(body=older))

        await world.store.write(age)
        (difference,) = (await world.store.read(replay, experiment.experiment_id)).differences
        assert (difference.place, difference.stored, difference.replayed) == ("/engine", ENGINE - 1, ENGINE)

    on(sqlite_url, {"base": 0.5, "new": 0.85}, scenario)
