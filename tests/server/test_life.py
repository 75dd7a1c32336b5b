"""Whatever is done to the experiments of a program, by persons and by the engine, in whatever order: what must hold.

Hypothesis plays operators, traffic and ticks against the acts of the server on a real database. Beside them runs a model
of a few lines that says what each act ought to do, and which are to be refused; after every one the two are compared.
"""

from collections.abc import Callable, Mapping
from typing import Any, get_args

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from experiments import holdback, life
from experiments.assignment import Routing, draw, route
from experiments.decision import Conclude, Drop, Fill, Step
from experiments.errors import RatchetError
from experiments.experiment import By, Decision, Experiment, Verdict
from experiments.facts import Outcome, Prediction
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
from tests.server.world import METRICS

VARIANTS = ("base", "left", "right")
UNITS = [f"unit-{n}" for n in range(24)]
SHARES = st.sampled_from([0.1, 0.3, 0.6])
VERDICTS: list[Verdict] = [verdict for verdict in get_args(Verdict) if verdict not in ("stopped", "promote")]


class Model:
    """What ought to be true of the program, and of each experiment by its id."""

    def __init__(self) -> None:
        self.champion = "base"
        self.state: dict[str, str] = {}
        self.verdict: dict[str, str | None] = {}
        self.rolled_back: set[str] = set()
        self.levels: dict[str, bool] = {}
        """Of every experiment that drew a level, in order: whether the engine promoted by it."""
        self.standing: list[tuple[str, str, str]] = []
        """Experiment, former and new champion of every promotion not taken back."""
        self.watched: str | None = None

    @property
    def live(self) -> str | None:
        """The experiment that is running or paused."""
        return next((one for one, state in self.state.items() if state in ("running", "paused")), None)

    def conclude(self, one: Experiment, verdict: Verdict, winner: str | None, by: By) -> None:
        self.state[one.experiment_id], self.verdict[one.experiment_id] = "concluded", verdict
        if one.experiment_id in self.levels:
            self.levels[one.experiment_id] = winner is not None and by == "engine"
        if winner is not None:
            self.standing.append((one.experiment_id, self.champion, winner))
            self.champion = winner
            self.watched = one.experiment_id if one.settings.holdback else None

    def roll_back(self, one: Experiment) -> None:
        if self.live is not None:
            self.state[self.live], self.verdict[self.live] = "concluded", "invalid"
        self.champion = self.standing.pop()[1]
        self.rolled_back.add(one.experiment_id)
        self.watched = None


class Life(RuleBasedStateMachine):
    """One program, and all that may be done to its experiments."""

    experiments = Bundle("experiments")

    def __init__(self, conn: Connection) -> None:
        super().__init__()
        self.conn, self.outer = conn, conn.begin()
        self.model, self.now, self.served = Model(), SECOND, 0
        self.decided: dict[str, list[Decision]] = {}
        self.contrived: set[str] = set()
        """Experiments that were concluded without evidence, which no replay can find."""
        self.seen: dict[str, Mapping[str, float]] = {}
        """The latest split that units of each salt were drawn with."""
        append_routing(conn, Routing(program="p", epoch=1, champion="base", reason="first", created_at=self.now))

    def teardown(self) -> None:
        try:
            self.check_that_what_happened_can_be_told_again()
        finally:
            self.outer.rollback()

    # Drafts.

    @rule(
        target=experiments,
        others=st.permutations(VARIANTS),
        several=st.booleans(),
        aa=st.sampled_from([False, False, False, True]),
        promotion=st.sampled_from(["auto", "recommend"]),
        randomize=st.sampled_from(["unit", "request"]),
        share=st.sampled_from([0.0, 0.3]),
        ramp=st.sampled_from([(), (0.2, 0.5)]),
    )
    def draft(self, others: list[str], *, several: bool, aa: bool, promotion: Any, share: float, **how: Any) -> str:
        self.now += SECOND
        champion, number = self.model.champion, len(self.model.state)
        challengers = [name for name in others if name != champion][: 1 + several]
        small = {"min_units": 4, "max_units": 40, "ramp_units": 6, "holdback_units": 10, "min_effect": 0.2}
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
        return made.experiment_id

    # What persons do.

    @rule(one=experiments)
    def start(self, one: str) -> None:
        found, model = self.found(one), self.model
        fit = found.state == "draft" and found.champion == model.champion and model.live is None
        if self.tried(fit, acts.start, self.act(one)):
            model.state[one], model.watched = "running", None
            if not found.aa:
                model.levels[one] = False

    @rule(one=experiments)
    def pause(self, one: str) -> None:
        if self.tried(self.model.state[one] == "running", acts.pause, self.act(one)):
            self.model.state[one] = "paused"

    @rule(one=experiments)
    def resume(self, one: str) -> None:
        if self.tried(self.model.state[one] == "paused", acts.resume, self.act(one)):
            self.model.state[one] = "running"

    @rule(one=experiments, share=SHARES)
    def reshare(self, one: str, share: float) -> None:
        found = self.found(one)
        split = {found.champion: 1 - share, **dict.fromkeys(found.challengers, share / len(found.challengers))}
        gone = {arm for arm, part in (self.routing().split if one == self.model.live else {}).items() if not part}
        self.tried(self.model.state[one] != "concluded" and not gone, acts.reshare, self.act(one), split)

    @rule(one=experiments)
    def stop(self, one: str) -> None:
        found = self.found(one)
        if self.tried(found.state != "concluded", acts.stop, self.act(one)):
            self.model.conclude(found, "stopped", None, "operator")

    @rule(one=experiments, last=st.booleans())
    def promote(self, one: str, *, last: bool) -> None:
        found, model = self.found(one), self.model
        fit = found.state != "concluded" and found.champion == model.champion and model.live in (None, one)
        winner = found.challengers[-1 if last else 0]
        if self.tried(fit and not found.aa, acts.promote, self.act(one), winner):
            model.conclude(found, "promote", winner, "operator")

    @rule(one=experiments)
    def roll_back(self, one: str) -> None:
        latest = self.model.standing[-1][0] if self.model.standing else None
        if self.tried(latest == one, acts.rollback, self.act(one)):
            self.model.roll_back(self.found(one))

    # What the engine does.

    @precondition(lambda self: self.model.live)
    @rule(rates=st.permutations([0.0, 0.5, 1.0]), number=st.sampled_from([3, 12]))
    def traffic(self, rates: list[float], number: int) -> None:
        """Units come, some of them again, and what became of each is known a second later."""
        routing = self.routing()
        entries = [self.served_one(routing, dict(zip(VARIANTS, rates, strict=True))) for _ in range(number)]
        append(self.conn, entries)
        self.now += 2 * SECOND

    @precondition(lambda self: self.model.state.get(self.model.live) == "running")
    @rule(patience=st.sampled_from([1, 6]))
    def tick(self, patience: int) -> None:
        self.now += patience * SECOND
        one = self.found(self.model.live or "")
        register(self.conn, one, self.now)
        ruling, acted = settle(self.conn, one, fold(self.conn, one, self.now), self.now, self.now)
        match ruling:
            case Conclude(verdict="promote") if one.promotion == "recommend":
                assert self.found(one.experiment_id).state == "running"
            case Conclude(verdict=verdict, challenger=challenger):
                assert acted
                self.model.conclude(one, verdict, challenger if verdict == "promote" else None, "engine")
            case Drop(challenger=gone):
                assert self.routing().split[gone] == 0
            case Step(split=split):
                assert self.routing().split == split
            case Fill():
                assert self.routing().state == "full"

    @precondition(lambda self: self.model.state.get(self.model.live) == "running")
    @rule(verdict=st.sampled_from([*VERDICTS, "promote", "promote"]))
    def conclude(self, verdict: Verdict) -> None:
        """As if the evidence had said so: every verdict is to be met often."""
        one = self.found(self.model.live or "")
        winner = one.challengers[0] if verdict == "promote" and not one.aa else None
        if verdict == "promote" and winner is None:
            return
        self.contrived.add(one.experiment_id)
        acts.conclude(self.conn, one, self.act(one.experiment_id, by="engine"), verdict, winner)
        self.model.conclude(one, verdict, winner, "engine")

    @precondition(lambda self: self.model.watched)
    @rule(ending=st.sampled_from(["watch", "passed", "ended", "harm"]))
    def watch(self, ending: str) -> None:
        """The tick of the holdback; or as if it had found an end."""
        self.now += SECOND
        one = self.found(self.model.watched or "")
        if ending == "watch":
            trial = holdback.watched(one)
            register(self.conn, trial, self.now)
            progress = fold(self.conn, trial, self.now, holdback.latch)
            _, acted = watching.settle(self.conn, one, progress, self.now, self.now)
            assert not acted, "nobody was served meanwhile"
        elif ending == "harm":
            self.contrived.add(one.experiment_id)
            acts.rollback(self.conn, self.act(one.experiment_id, by="holdback"))
            self.model.roll_back(one)
        else:
            acts.end_holdback(self.conn, one, self.act(one.experiment_id, by="holdback"), passed=ending == "passed")
            self.model.watched = None

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
    def verdicts_are_latched_and_decisions_only_added(self) -> None:
        for one in self.model.state:
            found = self.found(one)
            assert (found.state, found.verdict) == (self.model.state[one], self.model.verdict[one])
            assert found.rolled_back == (one in self.model.rolled_back)
            assert (found.holdback is not None and found.holdback.state == "running") == (one == self.model.watched)
            before, decided = self.decided.get(one, []), store.decisions_of(self.conn, one)
            assert decided[: len(before)] == before
            assert [decision.tick for decision in decided] == list(range(1, len(decided) + 1))
            assert found.state != "concluded" or decided
            self.decided[one] = decided

    @invariant()
    def every_start_draws_one_level_and_keeps_it(self) -> None:
        drawn = store.levels_of(self.conn, "p")
        assert [(level.experiment_id, level.rejected) for level in drawn] == list(self.model.levels.items())
        assert [level.t for level in drawn] == list(range(1, len(drawn) + 1))
        kept = {level.experiment_id: level.level for level in drawn}
        for one in self.model.state:
            assert self.found(one).level == kept.get(one)

    @invariant()
    def promotions_are_taken_back_once_and_from_the_latest_on(self) -> None:
        standing = [p for p in store.promotions_of(self.conn, "p") if p.rolled_back_at is None]
        assert [(p.experiment_id, p.from_variant, p.to_variant) for p in reversed(standing)] == self.model.standing

    @invariant()
    def a_unit_keeps_its_arm_unless_another_gained_on_it(self) -> None:
        routing = self.routing()
        if routing.experiment_id is None:
            return
        old, new = self.seen.get(routing.salt, routing.split), routing.split
        for unit in UNITS:
            arm = draw(routing.salt, unit, old)
            if new[arm] and all(new[other] * old[arm] <= old[other] * new[arm] for other in new if other != arm):
                assert draw(routing.salt, unit, new) == arm
        self.seen[routing.salt] = new

    def check_that_what_happened_can_be_told_again(self) -> None:
        """Every logged propensity is the split of its epoch, and every decision follows from the rows."""
        p = predictions.c
        logged = sa.select(p.experiment_id, p.epoch, p.assigned_variant, p.propensity).where(p.experiment_id.is_not(None))
        for row in self.conn.execute(logged.distinct()):
            assert splits_by_epoch(self.conn, row.experiment_id)[row.epoch][row.assigned_variant] == row.propensity
        for one in self.model.state.keys() - self.contrived:
            assert replay(self.conn, one).differences == ()

    # How it is done.

    def act(self, one: str, by: By = "operator") -> Act:
        self.now += SECOND
        return Act(experiment_id=one, reason="because", by=by, actor="ann", now=self.now, horizon=self.now)

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

    def served_one(self, routing: Routing, rates: Mapping[str, float]) -> Entry:
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
        value = float(number % 10 < 10 * rates.get(assigned.variant, 0.5))
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
                lambda: Life(conn),
                settings=settings(
                    max_examples=30,
                    stateful_step_count=40,
                    derandomize=True,
                    phases=[Phase.generate],
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
    finally:
        database.close()
