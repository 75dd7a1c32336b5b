"""Cron's five fields, in UTC."""

from datetime import UTC, datetime

import pytest

from server.schedules import latest_due, month_of, next_due, trigger


def at(written: str) -> int:
    return int(datetime.fromisoformat(written).replace(tzinfo=UTC).timestamp()) * 10**6


@pytest.mark.parametrize(
    ("schedule", "days"),
    [
        ("0 3 * * *", "mon tue wed thu fri sat sun"),
        ("0 3 * * 0", "sun"),
        ("0 3 * * 7", "sun"),
        ("0 3 * * 1-5", "mon tue wed thu fri"),
        ("0 3 * * 0-2", "mon tue sun"),
        ("0 3 * * 5-7", "fri sat sun"),
        ("0 3 * * */3", "wed sat sun"),
        ("0 3 * * Mon,6", "mon sat"),
    ],
)
def test_days_of_the_week_count_from_sunday_as_in_cron(schedule: str, days: str) -> None:
    monday = at("2026-11-16T00:00:00")
    day = 24 * 3600 * 10**6
    week = [latest_due(schedule, monday + n * day, monday + (n + 1) * day - 1) for n in range(7)]
    names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    assert [name for name, due in zip(names, week, strict=True) if due is not None] == days.split()
    assert {due for due in week if due is not None} <= {monday + n * day + at("1970-01-01T03:00:00") for n in range(7)}


def test_of_the_times_missed_only_the_last_is_left() -> None:
    now = at("2026-11-18T10:30:00")
    assert latest_due("0 * * * *", at("2026-11-18T02:10:00"), now) == at("2026-11-18T10:00:00")
    assert latest_due("0 * * * *", at("2026-11-18T10:00:00"), now) is None
    assert latest_due("0 * * * *", at("2026-11-18T09:59:59"), now) == at("2026-11-18T10:00:00")
    assert latest_due("0 3 1 * *", 0, now) is None, "too long ago"
    assert next_due("0 3 1 * *", now) == at("2026-12-01T03:00:00")


@pytest.mark.parametrize("schedule", ["61 * * * *", "0 3 * * 8", "0 3 * * 5-2", "a b c d e", "0 3 30 2 monday"])
def test_a_schedule_that_is_none_is_refused(schedule: str) -> None:
    with pytest.raises(ValueError, match="is not one of cron's"):
        trigger(schedule)


def test_a_month_begins_at_midnight_of_its_first_day() -> None:
    assert month_of(at("2026-11-20T10:00:00")) == at("2026-11-01T00:00:00")
    assert month_of(at("2026-11-01T00:00:00")) == at("2026-11-01T00:00:00")
