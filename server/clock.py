"""The one clock and the one maker of ids; everything below `server/` is handed what these return."""

import time
from collections.abc import Callable

import uuid_utils


def _never_back() -> Callable[[], int]:
    latest = 0

    def now() -> int:
        nonlocal latest
        latest = max(latest, time.time_ns() // 1000)
        return latest

    return now


now = _never_back()
"""Microseconds since the epoch, UTC. When the wall clock is set back this one stands still until that has caught up: a
fact must never be dated into a block of time that has been folded already."""


def not_before(moment: int, now: Callable[[], int]) -> Callable[[], int]:
    """The clock `now`, standing still at `moment` (µs) until it has got there: its wall clock was set back."""
    return lambda: max(moment, now())


def new_id() -> str:
    """A UUIDv7: unique, and in the order of making to the millisecond."""
    return str(uuid_utils.uuid7())
