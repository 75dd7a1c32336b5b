"""Whatever is done to the experiments of a program, by persons and by the engine, in whatever order: what must hold.

Hypothesis plays operators, traffic and ticks against the acts of the server on a real database. Beside them runs a
model of a few lines that says what each act ought to do, and which are to be refused; after every one the two are
compared.
"""

from collections.abc import Callable, Mapping
from typing import Any, get_args

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from experiments import holdback, life
from experiments.assignment import Routing, draw, route
from experiments.decision import Conclude, Drop, Fill, Step
from experiments.errors import RatchetError
from experiments.experiment import By, Decision, Experiment, State, Verdict
from experiments.facts import Outcome, Prediction
from experiments.metrics import Metric
from experiments.quantities import SECOND
from experiments.settings import ExperimentOptions
from server.store import Connection
from server.store import experiments as store
from server.store.appending import Entry, append, predicted
from server.store.engine import Database
from server.store.routings import append_routing, routing_in_force, splits_by_epoch
from server.store.tables import predictions
from server.trials import acts, watching
from server.trials.acts import Act
from server.trials.replay import replay
from server.trials.ticking import fold, register, settle
from tests.server.life_model import Model

METRICS = {
    "correct": Metric(kind="boolean", role="goal", expected="all"),
    "failures": Metric(kind="error", role="guardrail", margin=0.5),
}
VARIANTS = ("base", "left", "right")
UNITS = [f"unit-{n}" for n in range(24)]
DRAFT: dict[str, Any] = {
    "others": st.permutations(VARIANTS),
    "several": st.booleans(),
    "aa": st.sampled_from([False, False, False, True]),
    "promotion": st.sampled_from(["auto", "recommend"]),
    "randomize": st.sampled_from(["unit", "request"]),
    "share": st.sampled_from([0.0, 0.3]),
    "ramp": st.sampled_from([(), (0.2, 0.5)]),
}
VERDICTS: list[Verdict] = [verdict for verdict in get_args(Verdict) if verdict != "stopped"]


class Life(RuleBasedStateMachine):
    """One program, and all that may be done to its experiments."""

    def __init__(self, conn: Connection) -> None:
        super().__init__()
        self.conn, self.outer = conn, conn.begin()
        self.model, self.now, self.served = Model(), SECOND, 0
        self.decided: dict[str, list[Decision]] = {}
        self.versions: dict[str, int] = {}
        self.contrived: set[str] = set()
        """Experiments that were concluded without evidence, which no replay can find."""
        self.seen: dict[tuple[str, bool], tuple[dict[str, str], Mapping[str, float]]] = {}
        """By experiment, and apart for its holdback: the arm that every unit meets, and the split it was drawn with."""
        append_routing(conn, Routing(program="p", epoch=1, champion="base", reason="first", created_at=self.now))

    def teardown(self) -> None:
        try:
            self.check_that_what_happened_can_be_told_again()
        finally:
            self.outer.rollback()

    @initialize(rates=st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 3), **DRAFT)
    def begin(self, rates: tuple[float, ...], **drawn: Any) -> None:
        self.rates = dict(zip(VARIANTS, rates, strict=True))
        for _ in range(2):
            self.draft(**drawn)

    @rule(**DRAFT)
    def draft(self, others: list[str], *, several: bool, aa: bool, promotion: Any, share: float, **how: Any) -> None:
        self.now += SECOND
        champion, number = self.model.champion, len(self.model.state)
        challengers = [name for name in others if name != champion][: 1 + several]
        small = {"min_units": 4, "max_units": 120, "ramp_units": 6, "holdback_units": 10, "min_effect": 0.2}
        options = {"min_duration": 0, "outcome_window": 5, "block": 1, "holdback": share, **small, **how}
        if not how["ramp"]:
            options["split"] = {"champion": 0.5, "challenger": 0.5}
        made = life.draft(
            life.NewExperiment(program="p", challengers=() if aa else tuple(challengers), aa=aa),
            experiment_id=f"experiment-{number}",  # from which units are drawn: the same in every run
            champion=champion,
            variants=VARIANTS,
            metrics=METRICS,
            defaults=ExperimentOptions(**options),
            promotion=promotion,
            deadline=SECOND,
            now=self.now,
        )
        store.insert_experiment(self.conn, made)
        self.model.state[made.experiment_id], self.model.verdict[made.experiment_id] = "draft", None
        self.model.against[made.experiment_id] = champion

    # What persons do, where it makes a difference or anywhere else.

    @precondition(lambda self: self.model.live is None and self.model.next is not None)
    @rule()
    def start_next(self) -> None:
        self.start(self.found(self.model.next or ""))

    @precondition(lambda self: self.model.live)
    @rule(action=st.sampled_from(["pause", "resume", "resume", "reshare", "reshare", "promote", "stop"]))
    def operate(self, action: str) -> None:
        getattr(self, action)(self.found(self.model.live or ""))

    @precondition(lambda self: self.model.standing)
    @rule()
    def roll_back_the_latest(self) -> None:
        self.roll_back(self.found(self.model.standing[-1][0]))

    @rule(
        action=st.sampled_from(["start", "pause", "resume", "reshare", "promote", "stop", "roll_back"]),
        to=st.integers(0, 20),
    )
    def operate_any(self, action: str, to: int) -> None:
        known = list(self.model.state)
        getattr(self, action)(self.found(known[to % len(known)]))

    def start(self, one: Experiment) -> None:
        fit = one.state == "draft" and one.champion == self.model.champion and self.model.live is None
        if self.tried(fit, acts.start, self.act(one)):
            self.model.state[one.experiment_id], self.model.watched = "running", None
            if not one.aa:
                self.model.levels[one.experiment_id] = False

    def pause(self, one: Experiment) -> None:
        if self.tried(one.state == "running", acts.pause, self.act(one)):
            self.model.state[one.experiment_id] = "paused"

    def resume(self, one: Experiment) -> None:
        if self.tried(one.state == "paused", acts.resume, self.act(one)):
            self.model.state[one.experiment_id] = "running"

    def stop(self, one: Experiment) -> None:
        if self.tried(one.state != "concluded", acts.stop, self.act(one)):
            self.model.conclude(one, "stopped", None, "operator")

    def promote(self, one: Experiment) -> None:
        free = one.champion == self.model.champion and self.model.live in (None, one.experiment_id)
        fit, winner = free and one.state != "concluded" and not one.aa, one.challengers[-1]
        if self.tried(fit, acts.promote, self.act(one), winner):
            self.model.conclude(one, "promote", winner, "operator")

    def roll_back(self, one: Experiment) -> None:
        fit = bool(self.model.standing) and self.model.standing[-1][0] == one.experiment_id
        if self.tried(fit, acts.rollback, self.act(one)):
            self.model.roll_back(one)

    def reshare(self, one: Experiment) -> None:
        share = 0.1 + 0.5 * (self.now // SECOND % 2)
        split = {one.champion: 1 - share, **dict.fromkeys(one.challengers, share / len(one.challengers))}
        dropped = one.experiment_id == self.model.live and not all(self.routing().split.values())
        self.tried(one.state != "concluded" and not dropped, acts.reshare, self.act(one), split)

    # What the engine does.

    @precondition(lambda self: self.model.live or self.model.watched)
    @rule(days=st.integers(1, 6))
    def live_on(self, days: int) -> None:
        """Every day units come, some of them again, what became of each is known a second later, and a tick follows."""
        for _ in range(days):
            append(self.conn, [self.served_one(self.routing()) for _ in range(12)])
            self.now += 6 * SECOND
            if self.model.live is not None:
                self.tick(self.found(self.model.live))
            elif self.model.watched is not None:
                self.watch(self.found(self.model.watched))

    def tick(self, one: Experiment) -> None:
        register(self.conn, one, self.now)
        ruling, acted = settle(self.conn, one, fold(self.conn, one, self.now), self.now, self.now)
        match ruling:
            case Conclude(verdict="promote") if one.promotion == "recommend":
                assert self.found(one.experiment_id).state == "running"
            case Conclude(verdict=verdict, challenger=challenger):
                assert acted
                self.model.conclude(one, verdict, challenger if verdict == "promote" else None, "engine")
            case Drop(split=split) | Step(split=split):
                assert self.routing().split == split
            case Fill():
                assert self.routing().state == "full"

    def watch(self, one: Experiment) -> None:
        trial = holdback.watched(one)
        register(self.conn, trial, self.now)
        progress = fold(self.conn, trial, self.now, holdback.latch)
        ruling, _ = watching.settle(self.conn, one, progress, self.now, self.now)
        if isinstance(ruling, holdback.Revert):
            self.model.roll_back(one)
        elif isinstance(ruling, holdback.End):
            self.model.watched = None

    @precondition(lambda self: self.model.state.get(self.model.live) == "running")
    @rule(verdict=st.sampled_from(VERDICTS))
    def conclude(self, verdict: Verdict) -> None:
        """As if the evidence had said so: every verdict is to be met often."""
        one = self.found(self.model.live or "")
        if not (one.aa and verdict == "promote"):
            winner = one.challengers[0] if verdict == "promote" else None
            self.contrived.add(one.experiment_id)
            acts.conclude(self.conn, one, self.act(one, by="engine"), verdict, winner)
            self.model.conclude(one, verdict, winner, "engine")

    # What must hold.

    @invariant()
    def at_most_one_experiment_is_live_and_traffic_is_its(self) -> None:
        live = [one.experiment_id for one in store.experiments_in(self.conn, ("running", "paused"), "p")]
        assert live == ([self.model.live] if self.model.live else [])
        routing = self.routing()
        assert routing.champion == self.model.champion
        assert routing.running == self.model.live
        assert (routing.experiment_id if routing.state == "holdback" else None) == self.model.watched
        assert not routing.split or abs(sum(routing.split.values()) - 1) < 1e-9
        paused = self.model.live is not None and self.model.state[self.model.live] == "paused"
        assert (routing.state == "paused") == paused

    @invariant()
    def verdicts_are_latched_and_every_start_draws_one_level_and_keeps_it(self) -> None:
        drawn = store.levels_of(self.conn, "p")
        assert [(level.experiment_id, level.rejected) for level in drawn] == list(self.model.levels.items())
        assert [level.t for level in drawn] == list(range(1, len(drawn) + 1))
        kept = {level.experiment_id: level.level for level in drawn}
        for found in store.experiments_in(self.conn, get_args(State), "p"):
            one = found.experiment_id
            assert (found.state, found.verdict) == (self.model.state[one], self.model.verdict[one])
            assert found.rolled_back == (one in self.model.rolled_back)
            assert (found.holdback is not None and found.holdback.state == "running") == (one == self.model.watched)
            assert found.level == kept.get(one)
            if self.versions.get(one) != found.version:
                self.check_that_decisions_are_only_added(found)
            self.versions[one] = found.version

    def check_that_decisions_are_only_added(self, found: Experiment) -> None:
        before, decided = self.decided.get(found.experiment_id, []), store.decisions_of(self.conn, found.experiment_id)
        assert decided[: len(before)] == before
        assert [decision.tick for decision in decided] == list(range(1, len(decided) + 1))
        assert found.state != "concluded" or decided
        self.decided[found.experiment_id] = decided

    @invariant()
    def promotions_are_taken_back_once_and_from_the_latest_on(self) -> None:
        standing = [p for p in store.promotions_of(self.conn, "p") if p.rolled_back_at is None]
        assert [(p.experiment_id, p.from_variant, p.to_variant) for p in reversed(standing)] == self.model.standing

    @invariant()
    def a_unit_keeps_its_arm_unless_another_gained_on_it(self) -> None:
        routing = self.routing()
        if routing.experiment_id is None:
            return
        coins = (routing.experiment_id, routing.state == "holdback")
        new = {unit: draw(routing.salt, unit, routing.split) for unit in UNITS}
        old, before = self.seen.get(coins, (new, routing.split))
        for unit, arm in old.items():
            gained = [
                other
                for other, share in routing.split.items()
                if share * before[arm] > before[other] * routing.split[arm]
            ]
            assert gained or new[unit] == arm
        self.seen[coins] = new, routing.split

    def check_that_what_happened_can_be_told_again(self) -> None:
        """Every logged propensity is the split of its epoch, and every decision follows from the rows."""
        p = predictions.c
        logged = sa.select(p.experiment_id, p.epoch, p.assigned_variant, p.propensity).where(
            p.experiment_id.is_not(None)
        )
        for row in self.conn.execute(logged.distinct()):
            assert splits_by_epoch(self.conn, row.experiment_id)[row.epoch][row.assigned_variant] == row.propensity
        for one in self.model.state:
            self.check_that_decisions_are_only_added(self.found(one))
        for one in self.model.state.keys() - self.contrived:
            assert replay(self.conn, one).differences == ()

    # How it is done.

    def act(self, one: Experiment, by: By = "operator") -> Act:
        self.now += SECOND
        return Act(
            experiment_id=one.experiment_id, reason="because", by=by, actor="ann", now=self.now, horizon=self.now
        )

    def tried(self, fit: bool, act: Callable[..., object], *args: object) -> bool:
        """Do it as the store would: all of it, or nothing; and only where the model says so."""
        if fit:
            act(self.conn, *args)
        else:
            with pytest.raises(RatchetError), self.conn.begin_nested():
                act(self.conn, *args)
        return fit

    def found(self, one: str) -> Experiment:
        return store.experiment(self.conn, one)

    def routing(self) -> Routing:
        routing = routing_in_force(self.conn, "p")
        assert routing is not None
        return routing

    def served_one(self, routing: Routing) -> Entry:
        """A prediction with its outcome; of six units three come for the first time."""
        self.served += 1
        self.now += SECOND // 20
        number = self.served
        assigned = route(routing, f"unit-{number // 2 if number % 2 else number}")
        prediction = Prediction(
            prediction_id=f"prediction-{number}",
            program="p",
            experiment_id=assigned.experiment_id,
            epoch=routing.epoch,
            unit_hash=f"unit-{number // 2 if number % 2 else number}",
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
            assigned_tokens=2,
            calls=(),
            created_at=self.now,
            answered_at=self.now + 1000,
        )
        value = float(number % 10 < 10 * self.rates.get(assigned.variant, 0.5))
        outcome = Outcome(
            prediction_id=prediction.prediction_id,
            metric="correct",
            source="program",
            value=value,
            digest=str(value),
            late=False,
            received_at=self.now + SECOND,
        )
        row = predicted(prediction, None, None)
        return Entry(prediction=row.prediction, outcomes=(outcome,))


def test_no_order_of_acts_traffic_and_ticks_breaks_the_life_of_experiments(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    try:
        with database.writer.connect() as conn:
            run_state_machine_as_test(
                lambda: Life(conn),  # type: ignore[arg-type]  # whatever makes one will do
                settings=settings(
                    max_examples=50,
                    stateful_step_count=50,
                    derandomize=True,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
    finally:
        database.close()
