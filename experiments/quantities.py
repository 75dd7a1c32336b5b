"""Durations, shares and money as people write them, and as the arithmetic needs them."""

import re
from decimal import Decimal, InvalidOperation

SECOND = 1_000_000
"""Microseconds in a second, the unit of every time and duration."""
DOLLAR = 10**12
"""Picodollars in a dollar: tokens times a price with six decimals per million tokens is a whole number of them."""

_UNITS = {"ms": SECOND // 1000, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND, "d": 86_400 * SECOND}
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*(ms|s|m|h|d)")
_LONGEST = 3660 * _UNITS["d"]


def duration(written: str | float) -> int:
    """Microseconds of `90`, `0.5` (seconds), `"30s"`, `"5m"`, `"24h"` or `"90d"`; ten years at most.

    Raises: ValueError naming what is allowed.
    """
    match = _DURATION.fullmatch(written) if isinstance(written, str) else None
    if match:
        micros = round(float(match[1]) * _UNITS[match[2]])
    elif isinstance(written, (int, float)) and not isinstance(written, bool) and 0 <= written < 1e10:
        micros = round(written * SECOND)
    else:
        raise ValueError(f"{written!r} is not a duration; write seconds as a number, or '30s', '5m', '24h', '90d'")
    if micros > _LONGEST:
        raise ValueError(f"{written!r} is longer than ten years")
    return micros


def fraction(written: str | float) -> float:
    """0.1 of `0.1` or `"10%"`. Raises: ValueError."""
    try:
        if isinstance(written, str):
            value = float(written.removesuffix("%")) / 100 if written.endswith("%") else float(written)
        else:
            value = float(written)
    except ValueError:
        value = float("nan")
    if not -1e9 < value < 1e9:
        raise ValueError(f"{written!r} is not a number or a percentage such as '10%'")
    return value


def money(written: str | float) -> int:
    """Picodollars of a dollar amount, exactly. A float counts as its shortest decimal writing (0.15 is 15 cents).

    Raises: ValueError when it is no amount, negative, above a billion dollars, or finer than a picodollar.
    """
    try:
        amount = Decimal(str(written)) * DOLLAR
    except InvalidOperation:
        amount = Decimal("nan")
    if not amount.is_finite() or not 0 <= amount <= 10**9 * DOLLAR or amount != amount.to_integral_value():
        raise ValueError(f"{written!r} is not an amount in dollars such as 5, 0.15 or '0.0004'")
    return int(amount)


def dollars(picodollars: int) -> str:
    """A decimal string in USD without an exponent and without trailing zeros, exactly.

    >>> dollars(1_500_000), dollars(0), dollars(5 * DOLLAR)
    ('0.0000015', '0', '5')
    """
    whole, rest = divmod(picodollars, DOLLAR)
    return f"{whole}.{rest:012d}".rstrip("0").rstrip(".")
