"""Every error Ratchet raises on purpose, in one tree.

    RatchetError
    ├── Invalid              the request or definition is wrong; says which field and what is allowed
    │   └── KeyReused        an Idempotency-Key came again with another body
    ├── NotFound             a name or id that does not exist; suggests the nearest one that does
    ├── Conflict             right in itself, wrong in the present state (a second running experiment)
    │   └── Stale            somebody else changed it first (If-Match, compare-and-set)
    ├── TooLarge             more than a stated limit
    ├── Busy                 no room right now; carries the seconds after which a retry makes sense
    ├── Unavailable          the database cannot be reached or refused to commit; nothing was recorded
    ├── RowRefused           the database refused this one row (its neighbours stand)
    └── LmError              the program could not be answered; carries the prediction's id once that is recorded
        ├── LmFailed         provider error, or an answer that could not be read
        └── LmTimeout        the deadline passed

The first line of a class docstring is what a person reads as the problem's title. One table in `server/errors.py` maps
each class to its HTTP status.
"""

from collections.abc import Iterable
from difflib import get_close_matches

import msgspec


class Fault(msgspec.Struct, frozen=True):
    """One thing wrong with an input: where (a JSON pointer, `""` for the whole) and what, in a sentence."""

    pointer: str
    message: str


class RatchetError(Exception):
    """Something went wrong."""

    def __init__(self, detail: str, *, faults: Iterable[Fault] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.faults = tuple(faults)


class Invalid(RatchetError):
    """The request is not valid."""

    @classmethod
    def at(cls, pointer: str, message: str) -> "Invalid":
        """An error about exactly one place, `pointer` being a JSON pointer such as `/items/3/unit`."""
        return cls(f"{pointer or '/'}: {message}", faults=[Fault(pointer, message)])


class KeyReused(Invalid):
    """This Idempotency-Key was used with another body."""


class NotFound(RatchetError):
    """There is no such thing."""


class Conflict(RatchetError):
    """The present state does not allow this."""


class Stale(Conflict):
    """Somebody else changed this first."""


class TooLarge(RatchetError):
    """This is larger than the limit."""


class Busy(RatchetError):
    """There is no room for this right now."""

    def __init__(self, detail: str, *, retry_after: float) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Unavailable(RatchetError):
    """The database cannot be reached."""

    def __init__(self, detail: str, *, retry_after: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class RowRefused(RatchetError):
    """The database refused this row."""


class LmError(RatchetError):
    """The language model did not answer."""

    def __init__(self, detail: str, *, prediction_id: str | None = None) -> None:
        super().__init__(detail)
        self.prediction_id = prediction_id


class LmFailed(LmError):
    """The language model failed."""


class LmTimeout(LmError):
    """The language model did not answer in time."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the allowed ones, and the likeliest meant one first.

    >>> nearest("corect", ["correct", "latency"])
    "did you mean 'correct'? Allowed: correct, latency"
    """
    names = sorted(allowed)
    if not names:
        return "none is defined"
    listed = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    close = get_close_matches(name, names, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"Allowed: {listed}"
