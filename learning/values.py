"""What is fit to be kept: JSON values that every part of Ratchet, and both databases, can write and read back.

Python's JSON is wider than the standard's: whole numbers of any length, NaN, text with half a surrogate pair. What
people send is refused by `faults_in`; what a language model says is made fit by `fit`.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from experiments.errors import Fault, Invalid

DEEPEST = 32
"""How many arrays and objects may be nested."""
_WHOLE = range(-(2**63), 2**63)
_REPORTED = 20


def at(pointer: str, key: str | int) -> str:
    """The JSON pointer (RFC 6901) of a member. A key of any length stays readable."""
    return f"{pointer}/{str(key)[:200].replace('~', '~0').replace('/', '~1')}"


def refuse(faults: Iterable[Fault]) -> None:
    """Raises: Invalid with the first twenty faults, if there are any."""
    if found := list(islice(faults, _REPORTED)):
        raise Invalid("; ".join(f"{fault.pointer}: {fault.message}" for fault in found[:3]), faults=found)


def faults_in(value: Any, pointer: str, room: int = DEEPEST) -> Iterator[Fault]:
    """Everything about a value that JSON, or a database, could not hold."""
    if isinstance(value, str):
        if reason := _unfit_text(value):
            yield Fault(pointer, reason)
    elif value is None or isinstance(value, bool):
        return
    elif isinstance(value, int):
        if value not in _WHOLE:
            yield Fault(pointer, "whole numbers lie between -2^63 and 2^63 - 1")
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield Fault(pointer, "must be a finite number")
    elif not isinstance(value, (dict, list)):
        yield Fault(pointer, f"{type(value).__name__} is not a JSON value")
    elif not room:
        yield Fault(pointer, f"is nested more than {DEEPEST} deep")
    else:
        yield from _faults_inside(value, pointer, room - 1)


def fit(value: Any, room: int = DEEPEST) -> Any:
    """A JSON value as it can be kept: half a surrogate pair is written out as its escape, all else stays.

    Raises: ValueError for a number that JSON readers could not hold, and for what is no JSON value at all.
    """
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict) and room:
        return {fit(key): fit(member, room - 1) for key, member in value.items()}
    if isinstance(value, list) and room:
        return [fit(member, room - 1) for member in value]
    for fault in faults_in(value, "", 0):
        raise ValueError(f"{value!r:.100} {fault.message}")
    return value


def _faults_inside(value: dict[Any, Any] | list[Any], pointer: str, room: int) -> Iterator[Fault]:
    if isinstance(value, list):
        for place, member in enumerate(value):
            yield from faults_in(member, at(pointer, place), room)
        return
    for key, member in value.items():
        if not isinstance(key, str) or _unfit_text(key):
            yield Fault(pointer, f"{key!r:.100} cannot be a key")
        else:
            yield from faults_in(member, at(pointer, key), room)


def _unfit_text(text: str) -> str | None:
    if "\0" in text:
        return "must not contain NUL characters"
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return "must be valid Unicode, without half a surrogate pair"
    return None
