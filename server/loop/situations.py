"""The facts about a program that a plan to recompile it depends on, read in one snapshot."""

import msgspec

from learning.compile_runs import CompileRun, RunState
from learning.cycle import Alarm, Situation
from learning.definitions import ProgramDefinition
from learning.feedback.scoring import rescorable
from server.schedules import latest_due, month_of, next_due
from server.store import Connection
from server.store.compiles import last_run, open_run, runs_answering, spent_since
from server.store.definitions import stored_program
from server.store.drifts import AlarmRaised, alarms_of, kept_watch, open_alarms
from server.store.examples import labels_since
from server.store.experiments import live_experiment
from server.store.routings import routing_in_force
from server.store.upkeep import setting
from server.trials.ticking import FROZEN

_ENDED: tuple[RunState, ...] = ("succeeded", "rejected", "failed", "cancelled")


def situation_of(
    conn: Connection, program: str, definition: ProgramDefinition, now: int, *, requested: bool = False
) -> Situation:
    """Where a program stands at `now` (µs). Labels are counted only as far as it takes, and where somebody asks."""
    last, last_ended = last_run(conn, program), last_run(conn, program, _ENDED)
    under_way, live = open_run(conn, program), live_experiment(conn, program)
    routing = routing_in_force(conn, program)
    alarms = [alarm for alarm in open_alarms(conn, program) if routing and alarm.variant == routing.champion]
    alarm = next((_alarm(raised, last) for raised in reversed(alarms) if raised.signal == "score"), None)
    if alarm is None and routing is not None:
        alarm = _lasting(conn, program, routing.champion, last_ended)
    shifted = next((raised.raised_at for raised in reversed(alarms) if raised.signal == "label_share"), None)
    goal = definition.metrics[definition.goal] if definition.goal else None
    due, following = _times(conn, program, definition, last, now)
    found = Situation(
        requested=requested,
        obstacle=rescorable(goal),
        alarm=alarm,
        due=due,
        next_due=following,
        running=under_way.compile_id if under_way else None,
        experiment=live.experiment_id if live else None,
        holdback=routing is not None and routing.state == "holdback",
        frozen=bool(setting(conn, FROZEN)),
        labels_shifted=shifted,
        last_finished=last_ended.finished_at if last_ended else None,
        spent=spent_since(conn, program, month_of(now)),
    )
    return found if requested else _with_labels(conn, program, definition, found, last)


def _alarm(raised: AlarmRaised, last: CompileRun | None) -> Alarm:
    """An open alarm. A run that names it has answered it, whatever the clocks of two machines say of their order."""
    answers = last is not None and (last.alarm == raised.raised_at or last.created_at >= raised.noticed_at)
    return Alarm(
        at=raised.raised_at, since=raised.change_point, answer=last.compile_id if last is not None and answers else None
    )


def _lasting(conn: Connection, program: str, champion: str, last: CompileRun | None) -> Alarm | None:
    """The alarm that runs have answered in vain, if the champion is still below what it was held to before."""
    raised = lasting_alarm(conn, program, champion)
    if raised is None or last is None:
        return None
    tries = max(1, runs_answering(conn, program, raised.raised_at))
    return Alarm(at=raised.raised_at, since=raised.change_point, answer=last.compile_id, tries=tries, lasting=True)


def lasting_alarm(conn: Connection, program: str, champion: str) -> AlarmRaised | None:
    """The champion's latest alarm of the score, if a run closed it in vain and the score is still below its floor.

    An alarm that an operator closed is lived with: the fall is no fault any more.
    """
    kept = kept_watch(conn, program)
    if kept is None or kept.body.state.champion != champion:
        return None
    readings = (one for one in kept.body.readings if (one.variant, one.signal) == (champion, "score"))
    now = next(readings, None)
    if now is None or now.floor is None or now.score is None or now.score >= now.floor:
        return None
    past = (raised for raised in alarms_of(conn, program) if (raised.variant, raised.signal) == (champion, "score"))
    latest = next(past, None)
    return latest if latest is not None and latest.unanswered else None


def _times(
    conn: Connection, program: str, definition: ProgramDefinition, last: CompileRun | None, now: int
) -> tuple[int | None, int | None]:
    """When the schedule was last due and is due next; what was before the program or its last run asks for nothing."""
    if "schedule" not in definition.learning.on or definition.learning.schedule is None:
        return None, None
    after = last.created_at if last is not None else stored_program(conn, program).created_at
    schedule = definition.learning.schedule
    return latest_due(schedule, after, now), next_due(schedule, now)


def _with_labels(
    conn: Connection, program: str, definition: ProgramDefinition, found: Situation, last: CompileRun | None
) -> Situation:
    """The situation with its fresh labels counted up to the number that is asked for, if anything asks for a run."""
    goal = definition.goal
    if goal is None or (found.alarm is None and found.due is None):
        return found
    metric, enough = definition.metrics[goal], definition.learning.min_fresh_labels
    since_run = last.created_at if last is not None else 0
    since_change = found.alarm.since if found.alarm is not None else since_run
    return msgspec.structs.replace(
        found,
        labels_since_change=labels_since(conn, program, goal, metric, since_change, enough),
        labels_since_run=labels_since(conn, program, goal, metric, since_run, enough),
    )
