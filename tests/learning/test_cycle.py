"""When to recompile: every reason to, every reason not to, and that nothing forbidden is ever planned."""

from datetime import UTC, datetime
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from experiments.quantities import DOLLAR, SECOND
from learning.cycle import Alarm, Compile, Situation, Skip, Wait, plan
from learning.definitions import LearningOptions

HOUR = 3600 * SECOND
DAY = 24 * HOUR


def moment(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> int:
    return int(datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp()) * SECOND


NOW = moment(2026, 11, 20, 12)
ALARM = Alarm(at=moment(2026, 11, 12, 18, 30), since=moment(2026, 11, 12, 14, 3))
ANSWERED = Alarm(at=ALARM.at, since=ALARM.since, answer="run-1")
BOTH = LearningOptions(on=("drift", "schedule"), schedule="0 3 * * *", budget_usd=5, monthly_budget_usd=20)
DRIFT = LearningOptions(on=("drift",))
READY: dict[str, Any] = {"labels_since_change": 100, "labels_since_run": 100}


def planned(options: LearningOptions = BOTH, **facts: Any) -> Compile | Wait | Skip:
    return plan(Situation(**{**READY, **facts}), options, NOW)


@pytest.mark.parametrize(
    ("facts", "trigger", "reason", "since"),
    [
        ({"alarm": ALARM}, "drift", "drift alarm of 12 Nov 18:30 UTC", ALARM.since),
        ({"due": NOW - HOUR}, "schedule", "scheduled for 20 Nov 11:00 UTC", None),
        ({"requested": True}, "operator", "asked for by an operator", None),
        ({"alarm": ALARM, "due": NOW}, "drift", "drift alarm of 12 Nov 18:30 UTC", ALARM.since),
        ({"alarm": ALARM, "requested": True}, "operator", "asked for by an operator", ALARM.since),
        ({"alarm": ANSWERED, "due": NOW}, "schedule", "scheduled for 20 Nov 12:00 UTC", None),
    ],
)
def test_who_asks_gets_a_run_that_learns_from_the_time_after_the_change(facts, trigger, reason, since):
    answer = planned(**facts)
    assert answer == Compile(trigger=trigger, reason=reason, since=since, alarm=since and ALARM.at, cost=5 * DOLLAR)


@pytest.mark.parametrize(
    ("options", "facts", "reason"),
    [
        (BOTH, {"next_due": NOW + HOUR}, "no drift alarm and the schedule is not due before 20 Nov 13:00 UTC"),
        (DRIFT, {}, "no drift alarm"),
        (DRIFT, {"alarm": ANSWERED}, "run run-1 has answered the drift alarm"),
        (DRIFT, {"due": NOW}, "no drift alarm"),
        (LearningOptions(), {"due": NOW}, "recompiled by hand only: `learning.on` is empty"),
        (
            LearningOptions(),
            {"alarm": ALARM},
            "drift alarm of 12 Nov 18:30 UTC: `learning.on` does not name drift, so a person must ask",
        ),
        (BOTH, {"alarm": ALARM, "obstacle": "it has no goal"}, "no answer can be scored: it has no goal"),
    ],
)
def test_where_nobody_asks_the_reason_says_so(options, facts, reason):
    assert planned(options, **facts) == Skip(reason)


RUNNING = {"running": "run-7"}
EXPERIMENT = {"experiment": "exp-3"}
FROZEN = {"frozen": True}
SHIFTED = {"labels_shifted": NOW - HOUR}
COOLING = {"last_finished": NOW - HOUR}
FEW = {"labels_since_change": 63, "labels_since_run": 7}
SPENT = {"spent": 20 * DOLLAR}


@pytest.mark.parametrize(
    ("facts", "reason", "until"),
    [
        (RUNNING, "run run-7 is under way", None),
        (EXPERIMENT, "experiment exp-3 must end first", None),
        (FROZEN, "every automatic act is frozen, until `ratchet unfreeze`", None),
        (
            SHIFTED,
            (
                "another share of predictions gets labels than before (alarm of 20 Nov 11:00 UTC), and those may not "
                "speak for all: left to people until 21 Nov 11:00 UTC, when one cool-down has passed"
            ),
            NOW + 23 * HOUR,
        ),
        (COOLING, "cool-down after the last run, until 21 Nov 11:00 UTC", NOW + 23 * HOUR),
        (FEW, "63 of 100 fresh labels since the change on 12 Nov 14:03 UTC", None),
        (
            SPENT,
            "the month's budget of $20 (`monthly_budget_usd`) is used up, until 1 Dec 00:00 UTC",
            moment(2026, 12, 1),
        ),
    ],
)
def test_what_is_in_the_way_of_an_alarm_is_named_with_its_end(facts, reason, until):
    waiting = planned(alarm=ALARM, **facts)
    assert waiting == Wait(reason=f"waiting: {reason} (drift alarm of 12 Nov 18:30 UTC)", until=until)


LASTING = Alarm(at=ALARM.at, since=ALARM.since, answer="run-1", tries=1, lasting=True)


def test_a_fall_that_the_first_run_did_not_mend_is_answered_again_after_the_cool_down():
    assert isinstance(planned(DRIFT, alarm=LASTING, last_finished=NOW - DAY + 1), Wait)
    answer = planned(DRIFT, alarm=LASTING, last_finished=NOW - DAY)
    assert isinstance(answer, Compile)
    assert (answer.trigger, answer.since, answer.alarm) == ("drift", ALARM.since, ALARM.at)
    assert answer.reason == "drift alarm of 12 Nov 18:30 UTC, which run run-1 did not answer"


@pytest.mark.parametrize(("tries", "days"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (60, 8)])
def test_every_further_answer_rests_twice_as_long_up_to_eight_cool_downs(tries, days):
    alarm = msgspec.structs.replace(LASTING, tries=tries)
    assert isinstance(planned(DRIFT, alarm=alarm, last_finished=NOW - days * DAY + 1), Wait)
    assert isinstance(planned(DRIFT, alarm=alarm, last_finished=NOW - days * DAY), Compile)


def test_labels_that_have_shifted_hold_up_a_run_for_one_cool_down_only():
    assert isinstance(planned(DRIFT, alarm=ALARM, labels_shifted=NOW - DAY + 1), Wait)
    assert isinstance(planned(DRIFT, alarm=ALARM, labels_shifted=NOW - DAY), Compile)


def test_a_scheduled_run_counts_labels_from_the_last_run_and_waits_for_a_holdback():
    assert planned(due=NOW, **FEW).reason.startswith("waiting: 7 of 100 fresh labels since the last run")
    assert "holdback" in planned(due=NOW, holdback=True).reason
    assert isinstance(planned(alarm=ALARM, holdback=True), Compile)


@pytest.mark.parametrize("facts", [FROZEN, SHIFTED, COOLING, FEW, {"holdback": True}])
def test_an_operator_need_not_wait_for_what_restrains_automatic_runs(facts):
    assert isinstance(planned(requested=True, **facts), Compile)


@pytest.mark.parametrize("facts", [RUNNING, EXPERIMENT, SPENT])
def test_an_operator_waits_for_a_run_an_experiment_and_a_budget(facts):
    assert isinstance(planned(requested=True, **facts), Wait)


def test_the_cool_down_ends_to_the_microsecond_and_may_be_nothing():
    assert isinstance(planned(alarm=ALARM, last_finished=NOW - DAY + 1), Wait)
    assert isinstance(planned(alarm=ALARM, last_finished=NOW - DAY), Compile)
    assert isinstance(planned(LearningOptions(on=("drift",), cooldown=0), alarm=ALARM, last_finished=NOW), Compile)


@pytest.mark.parametrize(
    ("options", "spent", "cost"),
    [
        (BOTH, 18 * DOLLAR, 2 * DOLLAR),
        (BOTH, 3 * DOLLAR, 5 * DOLLAR),
        (LearningOptions(on=("drift",), monthly_budget_usd=20), 3 * DOLLAR, 17 * DOLLAR),
        (LearningOptions(on=("drift",), budget_usd="0.5"), 99 * DOLLAR, DOLLAR // 2),
        (DRIFT, 99 * DOLLAR, None),
    ],
)
def test_a_run_may_cost_what_is_left_of_both_budgets(options, spent, cost):
    answer = planned(options, alarm=ALARM, spent=spent)
    assert isinstance(answer, Compile)
    assert answer.cost == cost


def test_a_budget_of_nothing_buys_no_run():
    assert "`budget_usd` is 0" in planned(LearningOptions(budget_usd=0), requested=True).reason


def test_the_year_ends_too():
    waiting = plan(Situation(alarm=ALARM, **READY, **SPENT), BOTH, moment(2026, 12, 31, 23, 59))
    assert isinstance(waiting, Wait)
    assert waiting.until == moment(2027, 1, 1)


MOMENTS = st.none() | st.integers(NOW - 40 * DAY, NOW)
SITUATIONS = st.builds(
    Situation,
    requested=st.booleans(),
    obstacle=st.sampled_from([None, "it has no goal"]),
    alarm=st.sampled_from([None, ALARM, ANSWERED, LASTING]),
    due=MOMENTS,
    next_due=st.sampled_from([None, NOW + HOUR]),
    labels_since_change=st.integers(0, 200),
    labels_since_run=st.integers(0, 200),
    running=st.sampled_from([None, "run-7"]),
    experiment=st.sampled_from([None, "exp-3"]),
    holdback=st.booleans(),
    frozen=st.booleans(),
    labels_shifted=MOMENTS,
    last_finished=MOMENTS,
    spent=st.integers(0, 30 * DOLLAR),
)
OPTIONS = st.builds(
    LearningOptions,
    on=st.sampled_from([(), ("drift",), ("schedule",), ("drift", "schedule")]),
    schedule=st.just("0 3 * * *"),
    min_fresh_labels=st.integers(10, 150),
    budget_usd=st.sampled_from([None, 0, 5]),
    monthly_budget_usd=st.sampled_from([None, 0, 20]),
    cooldown=st.sampled_from([0, "24h", "30d"]),
)


@given(SITUATIONS, OPTIONS)
def test_nothing_forbidden_is_ever_planned_and_every_answer_has_a_reason(situation, options):
    answer = plan(situation, options, NOW)
    assert answer.reason
    if not isinstance(answer, Compile):
        return
    assert situation.running is None
    assert situation.experiment is None
    assert situation.obstacle is None
    assert options.budget != 0
    assert options.monthly_budget is None or situation.spent < options.monthly_budget
    assert answer.cost is None or answer.cost > 0
    assert (answer.alarm is None) == (situation.alarm is None or not situation.alarm.asks)
    if answer.trigger == "operator":
        assert situation.requested
        return
    assert answer.trigger in options.on
    assert not situation.frozen
    rest = {0: 0, "24h": DAY, "30d": 30 * DAY}[options.cooldown]
    assert situation.labels_shifted is None or NOW - situation.labels_shifted >= rest
    assert situation.last_finished is None or NOW - situation.last_finished >= rest
    fresh = situation.labels_since_run if answer.alarm is None else situation.labels_since_change
    assert fresh >= options.min_fresh_labels
    if answer.trigger == "drift":
        assert situation.alarm in (ALARM, LASTING)
    else:
        assert situation.due is not None
        assert not situation.holdback
