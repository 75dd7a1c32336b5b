"""The life of an experiment on a real database: start, fold, decide, act, and the same again from the raw rows."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from experiments import life
from experiments.assignment import Routing, route
from experiments.decision import Conclude, Ruling
from experiments.errors import Conflict, Stale
from experiments.experiment import Experiment
from experiments.facts import Content, Outcome, Prediction
from experiments.metrics import Metric
from experiments.quantities import SECOND
from experiments.settings import ExperimentOptions
from server.clock import new_id
from server.store import Store
from server.store import experiments as store
from server.store.blocks import closed_blocks
from server.store.routings import append_routing, routing_in_force
from server.store.tables import outcomes
from server.store.upkeep import put_setting
from server.trials import acts
from server.trials.acts import Act
from server.trials.replay import replay
from server.trials.reports import report_of
from server.trials.ticking import FROZEN, fold, register, settle

METRICS = {
    "correct": Metric(kind="boolean", role="goal", expected="all"),
    "failures": Metric(kind="error", role="guardrail", margin=0.05),
}
START = 1_000_000 * SECOND


class World:
    """Simulated traffic through one program on a real store, on a clock of its own."""

    def __init__(self, opened: Store, rates: dict[str, float], seed: int = 1) -> None:
        self.store = opened
        self.rates = rates
        self.random = random.Random(seed)
        self.now = START
        self.units = 0

    async def begin(self, **options: Any) -> Experiment:
        """A program whose champion is `base`, and a running experiment with `new`."""
        first = Routing(program="p", epoch=1, champion="base", reason="first", created_at=self.now)
        await self.store.write(append_routing, first)
        wanted = life.NewExperiment(program="p", challengers=("new",))
        promotion = options.pop("promotion", "auto")
        written: dict[str, Any] = {
            "randomize": "request",
            "min_duration": 0,
            "outcome_window": 10,
            "block": 1,
            "ramp": (),
            "split": None,
            **options,
        }
        split = written.pop("split") or {"champion": 0.5, "challenger": 0.5}
        drafted = life.draft(
            wanted,
            experiment_id=new_id(),
            champion="base",
            variants=["base", "new"],
            metrics=METRICS,
            defaults=ExperimentOptions(split=split, **written),
            promotion=promotion,
            deadline=SECOND,
            now=self.now,
        )
        await self.store.write(store.insert_experiment, drafted)
        return await self.store.write(acts.start, self.act(drafted.experiment_id))

    def act(self, experiment_id: str, reason: str = "because") -> Act:
        """An operator's act, now."""
        return Act(
            experiment_id=experiment_id, reason=reason, by="operator", actor="ann", now=self.now, horizon=self.now
        )

    async def traffic(self, predictions: int, seconds: int, *, unit: Callable[[int], str] | None = None) -> None:
        """Predictions spread over some seconds, each with its outcome two seconds later unless its arm has no rate."""
        tasks = []
        for _ in range(predictions):
            self.now += seconds * SECOND // predictions
            tasks.append(self._one(unit(self.units) if unit else f"unit-{self.units}", self.now))
            self.units += 1
        await asyncio.gather(*tasks)

    async def _one(self, unit: str, at: int) -> None:
        routing = await self.store.read(routing_in_force, "p")
        assert routing is not None
        assigned = route(routing, unit)
        prediction = Prediction(
            prediction_id=new_id(),
            program="p",
            experiment_id=assigned.experiment_id,
            epoch=routing.epoch,
            unit_hash=unit,
            assigned_variant=assigned.variant,
            variant=assigned.variant,
            propensity=assigned.propensity,
            status="ok",
            error=None,
            latency=1000,
            input_tokens=1,
            output_tokens=1,
            cost=None,
            assigned_cost=None,
            calls=(),
            created_at=at,
            answered_at=at + 1000,
        )
        content = Content(
            prediction_id=prediction.prediction_id, unit=unit, input={}, output={}, error_detail=None, metadata={}
        )
        value = float(self.random.random() < self.rates[assigned.variant])
        outcome = Outcome(
            prediction_id=prediction.prediction_id,
            metric="correct",
            source="program",
            value=value,
            digest=str(value),
            late=False,
            received_at=at + 2 * SECOND,
        )
        with self.store.journal.reserve(2) as slot:
            await slot.append(prediction, content)
            await slot.record([outcome])

    async def tick(self, experiment: Experiment) -> Ruling:
        """What the decision tick does, at this moment of the simulated clock."""
        await self.store.write(register, experiment, self.now)
        progress = await self.store.read(fold, experiment, self.now)
        ruling, _ = await self.store.write(settle, experiment, progress, self.now, self.now)
        return ruling

    async def until_verdict(self, experiment: Experiment, rounds: int = 60, **traffic: Any) -> Ruling:
        """Traffic and ticks in turn until a verdict."""
        ruling = await self.tick(experiment)
        for _ in range(rounds):
            await self.traffic(100, 3, **traffic)
            ruling = await self.tick(experiment)
            if isinstance(ruling, Conclude):
                break
        return ruling


def on(url: str, rates: dict[str, float], scenario: Callable[[World], Awaitable[None]]) -> None:
    """Play a scenario on an open store."""

    async def play() -> None:
        opened = Store.open(url)
        try:
            await scenario(World(opened, rates))
        finally:
            await opened.close()

    asyncio.run(play())


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
        assert (routing.champion, routing.experiment_id, routing.split) == ("new", None, {})
        ended = await world.store.read(store.experiment, experiment.experiment_id)
        assert (ended.state, ended.verdict) == ("concluded", "promote")
        (decision,) = await world.store.read(store.decisions_of, experiment.experiment_id)
        assert decision.split_before == {"base": 0.5, "new": 0.5}
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


def test_how_often_one_looks_changes_nothing(sqlite_url: str) -> None:
    """Facts folded tick by tick, and the same facts folded in one go by a replay at the end, give equal evidence."""

    async def scenario(world: World) -> None:
        experiment = await world.begin(max_units=1000, min_effect=0.001)
        ruling = await world.until_verdict(experiment)
        assert isinstance(ruling, Conclude)
        assert ruling.verdict == "inconclusive"
        assert (await world.store.read(replay, experiment.experiment_id)).agrees

    on(sqlite_url, {"base": 0.5, "new": 0.5}, scenario)


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
