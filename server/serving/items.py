"""Bodies that are lists of things which stand alone: a wrong item becomes its own error, the rest are worked on."""

from functools import cache
from typing import Any, TypeVar, get_args

import msgspec

from experiments.errors import Invalid
from server.bodies import Strict, decode

T = TypeVar("T", bound=msgspec.Struct)


class EachAlone(Strict[T]):
    """As `Strict`, for a Struct with one list: in the place of an item that is wrong stands the `Invalid` about it."""

    def decode_bytes(self, value: bytes) -> Any:
        """The Struct that `value` holds. Raises: Invalid where that is no list of objects, or too long a one."""
        try:
            return decode(value, self.model_type)
        except Invalid:
            return _piecewise(value, self.model_type)


def _piecewise(body: bytes, kind: type[T]) -> T:
    name, item, allowed = _list_in(kind)
    items = getattr(decode(body, _loosely(kind), in_pieces=True), name)
    if len(items) not in allowed:
        raise Invalid.at(f"/{name}", f"{len(items)} items; from {allowed.start} to {allowed.stop - 1} are allowed")
    return kind(**{name: [_or_error(bytes(raw), item) for raw in items]})


def _list_in(kind: type[msgspec.Struct]) -> tuple[str, type[msgspec.Struct], range]:
    """The one list of such a Struct: its name, what it holds, and how many."""
    (field,) = msgspec.structs.fields(kind)
    listed, limit = get_args(field.type)
    return field.name, get_args(listed)[0], range(limit.min_length or 0, limit.max_length + 1)


@cache
def _loosely(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    return msgspec.defstruct("Loose", [(_list_in(kind)[0], list[msgspec.Raw])], forbid_unknown_fields=True)


def _or_error(raw: bytes, item: type[T]) -> T | Invalid:
    try:
        return decode(raw, item)
    except Invalid as error:
        return error
