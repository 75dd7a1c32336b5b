"""How single values look on the wire."""

import math
from datetime import UTC, datetime, timedelta
from typing import Annotated

from msgspec import Meta

from experiments.quantities import SECOND, dollars

Name = Annotated[str, Meta(min_length=1, max_length=256)]
"""A name or id as a caller writes it; no real one is longer."""
Money = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]+(\.[0-9]+)?$", description="US dollars, exactly, as a decimal string.", examples=["0.0000132"]
    ),
]
Time = Annotated[datetime, Meta(tz=True)]
Share = Annotated[float, Meta(ge=0, le=1)]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(micros: int) -> datetime:
    """The time in UTC, exactly; it is written with a Z."""
    return _EPOCH + timedelta(microseconds=micros)


def moment_or_none(micros: int | None) -> datetime | None:
    """The time, or None when there is none yet."""
    return None if micros is None else moment(micros)


def micros(time: datetime) -> int:
    """Microseconds since the epoch of an aware time, exactly."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def usd(picodollars: int | None) -> str | None:
    """A decimal string in dollars, None for an unknown amount."""
    return None if picodollars is None else dollars(picodollars)


def finite(number: float | None) -> float | None:
    """The number, None where it is not one: JSON has neither NaN nor Infinity."""
    return number if number is not None and math.isfinite(number) else None


def seconds(duration: int) -> float:
    """A duration in seconds."""
    return duration / SECOND


def milliseconds(duration: float) -> float:
    """A duration in milliseconds."""
    return duration / 1000
