"""Simulated traffic through a real store, on a clock of its own, for tests of what the server decides."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from experiments import holdback, life
from experiments.assignment import Routing, route
from experiments.decision import Conclude, Keep, Ruling
from experiments.experiment import Experiment
from experiments.facts import Content, Outcome, Prediction
from experiments.metrics import Metric
from experiments.quantities import SECOND
from experiments.settings import ExperimentOptions
from server.clock import new_id
from server.store import Store
from server.store import experiments as store
from server.store.routings import append_routing, routing_in_force
from server.trials import acts, watching
from server.trials.acts import Act
from server.trials.ticking import fold, register, settle

METRICS = {
    "correct": Metric(kind="boolean", role="goal", expected="all"),
    "failures": Metric(kind="error", role="guardrail", margin=0.05),
}
START = 1_000_000 * SECOND
OUTCOME_WINDOW = 10
"""Seconds."""


class World:
    """Simulated traffic through one program on a real store, on a clock of its own."""

    def __init__(self, opened: Store, rates: dict[str, float], seed: int = 1) -> None:
        self.store = opened
        self.rates = rates
        self.random = random.Random(seed)
        self.now = START
        self.units = 0
        self.delay: Callable[[], int | None] = lambda: 2
        """Seconds from a prediction to its outcome; None when nobody ever reports one."""

    async def begin(self, **options: Any) -> Experiment:
        """A program whose champion is `base`, and a running experiment with every other variant that has a rate."""
        drafted = await self.draft(**options)
        return await self.store.write(acts.start, self.act(drafted.experiment_id))

    async def draft(self, *, champion: str = "base", challengers: tuple[str, ...] = (), **options: Any) -> Experiment:
        """A draft; the program is made with its first."""
        if await self.store.read(routing_in_force, "p") is None:
            first = Routing(program="p", epoch=1, champion="base", reason="first", created_at=self.now)
            await self.store.write(append_routing, first)
        others = challengers or tuple(name for name in self.rates if name != champion)
        promotion = options.pop("promotion", "auto")
        written: dict[str, Any] = {
            "randomize": "request",
            "min_duration": 0,
            "outcome_window": OUTCOME_WINDOW,
            "block": 1,
            "ramp": (),
            "split": {"champion": 0.5, "challenger": 0.5},
            **options,
        }
        drafted = life.draft(
            life.NewExperiment(program="p", challengers=others),
            experiment_id=new_id(),
            champion=champion,
            variants=list(self.rates),
            metrics=METRICS,
            defaults=ExperimentOptions(**written),
            promotion=promotion,
            deadline=SECOND,
            now=self.now,
        )
        await self.store.write(store.insert_experiment, drafted)
        return drafted

    def act(self, experiment_id: str, reason: str = "because") -> Act:
        """An operator's act, now."""
        return Act(
            experiment_id=experiment_id, reason=reason, by="operator", actor="ann", now=self.now, horizon=self.now
        )

    async def traffic(
        self,
        predictions: int,
        seconds: int,
        *,
        unit: Callable[[int], str] | None = None,
        known: Callable[[int], Mapping[str, float | str]] | None = None,
    ) -> None:
        """Predictions spread over some seconds, each with its outcome after the world's delay."""
        tasks = []
        for _ in range(predictions):
            self.now += seconds * SECOND // predictions
            name = unit(self.units) if unit else f"unit-{self.units}"
            tasks.append(self._one(name, self.now, known(self.units) if known else {}))
            self.units += 1
        await asyncio.gather(*tasks)

    async def _one(self, unit: str, at: int, known: Mapping[str, float | str]) -> None:
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
            assigned_tokens=None,
            calls=(),
            created_at=at,
            answered_at=at + 1000,
            covariates=dict(known),
        )
        content = Content(
            prediction_id=prediction.prediction_id, unit=unit, input={}, output={}, error_detail=None, metadata={}
        )
        value = float(self.random.random() < self.rates[assigned.variant])
        delay = self.delay()
        outcome = Outcome(
            prediction_id=prediction.prediction_id,
            metric="correct",
            source="program",
            value=value,
            digest=str(value),
            late=(delay or 0) >= OUTCOME_WINDOW,
            received_at=at + (delay or 0) * SECOND,
        )
        with self.store.journal.reserve(2) as slot:
            await slot.append(prediction, content)
            if delay is not None:
                await slot.record([outcome])

    async def tick(self, experiment: Experiment) -> Ruling:
        """What the decision tick does, at this moment of the simulated clock."""
        await self.store.write(register, experiment, self.now)
        progress = await self.store.read(fold, experiment, self.now)
        ruling, _ = await self.store.write(settle, experiment, progress, self.now, self.now)
        return ruling

    async def watch(self, experiment: Experiment) -> holdback.Ruling:
        """What the tick of the holdbacks does, at this moment of the simulated clock."""
        present = await self.store.read(store.experiment, experiment.experiment_id)
        trial = holdback.watched(present)
        await self.store.write(register, trial, self.now)
        progress = await self.store.read(fold, trial, self.now, holdback.latch)
        ruling, _ = await self.store.write(watching.settle, present, progress, self.now, self.now)
        return ruling

    async def until_watched(self, experiment: Experiment, rounds: int = 60, **traffic: Any) -> holdback.Ruling:
        """Traffic and ticks in turn until the holdback is over."""
        ruling = await self.watch(experiment)
        for _ in range(rounds):
            await self.traffic(100, 3, **traffic)
            ruling = await self.watch(experiment)
            if not isinstance(ruling, Keep):
                break
        return ruling

    async def until_verdict(self, experiment: Experiment, rounds: int = 60, **traffic: Any) -> Ruling:
        """Traffic and ticks in turn until a verdict."""
        return await self.until(experiment, Conclude, rounds, **traffic)

    async def until(self, experiment: Experiment, kind: type[Ruling], rounds: int = 60, **traffic: Any) -> Ruling:
        """Traffic and ticks in turn until a ruling of this kind."""
        ruling = await self.tick(experiment)
        for _ in range(rounds):
            await self.traffic(100, 3, **traffic)
            ruling = await self.tick(experiment)
            if isinstance(ruling, kind):
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
