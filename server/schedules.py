"""Schedules: the five fields of cron, in UTC, as APScheduler's trigger reads them once the days have their names."""

import re
from datetime import UTC, datetime, timedelta

from apscheduler.triggers.cron import CronTrigger

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
"""Cron counts from Sunday, which is 0 and 7; APScheduler counts from Monday, so numbers are never handed on."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def trigger(schedule: str) -> CronTrigger:
    """Raises: ValueError saying what is wrong with the schedule."""
    minute, hour, day, month, weekday = schedule.split()
    try:
        return CronTrigger(
            minute=minute, hour=hour, day=day, month=month, day_of_week=_named(weekday.lower()), timezone=UTC
        )
    except ValueError as error:
        raise ValueError(f"schedule {schedule!r} is not one of cron's: {error}") from None


def latest_due(schedule: str, after: int, now: int) -> int | None:
    """The latest moment after `after` and not after `now` (µs) at which the schedule is due; None when there is none.

    Of the times missed while nothing ran only the last is left: one compile makes up for all of them.

    >>> latest_due("0 3 * * *", after=0, now=50 * 3600 * 10**6) == 27 * 3600 * 10**6
    True
    """
    due, found = trigger(schedule), None
    since = _EPOCH + max(after, now - _LONGEST) * _MICROSECOND
    until = _EPOCH + now * _MICROSECOND
    following = due.get_next_fire_time(None, since + _MICROSECOND)
    while following is not None and following <= until:
        found = following
        following = due.get_next_fire_time(found, found + _MICROSECOND)
    return None if found is None else (found - _EPOCH) // _MICROSECOND


def next_due(schedule: str, now: int) -> int | None:
    """The first moment after `now` (µs) at which the schedule is due; None when it never is again."""
    following = trigger(schedule).get_next_fire_time(None, _EPOCH + (now + 1) * _MICROSECOND)
    return None if following is None else (following - _EPOCH) // _MICROSECOND


_LONGEST = 24 * 3600 * 10**6
"""How far back in µs a missed time is looked for. Longer ago, a compile would not be what was scheduled."""


def month_of(now: int) -> int:
    """When (µs) the calendar month of `now` began, in UTC.

    >>> month_of(40 * 24 * 3600 * 10**6) == 31 * 24 * 3600 * 10**6
    True
    """
    began = (_EPOCH + now * _MICROSECOND).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (began - _EPOCH) // _MICROSECOND


def _named(field: str) -> str:
    """Days of the week by name, ranges written out: `5-7` is fri,sat,sun."""
    return ",".join(name for part in field.split(",") for name in _names(part))


def _names(part: str) -> list[str]:
    found = re.fullmatch(r"(\*|[0-7](?:-[0-7])?)(?:/([1-7]))?", part)
    if found is None or part == "*":
        return [part]  # named already, or for APScheduler to refuse
    days, step = found[1], int(found[2] or 1)
    first, _, last = ("0", "", "6") if days == "*" else days.partition("-")
    return [_DAYS[day] for day in range(int(first), int(last or (6 if found[2] else first)) + 1, step)] or [part]
