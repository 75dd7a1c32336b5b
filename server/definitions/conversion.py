"""Plain data as Structs, with every fault found and each at its own path.

`msgspec.convert` stops at the first fault and names a mapping's value only as `[...]`. Definitions are written by hand
and deserve the whole list, so they are converted part by part: a part that fails is left out and the rest goes on.
"""

import re
from collections.abc import Collection, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import FieldInfo

from experiments.errors import nearest
from server.definitions.places import Document, Path, Slip


class Converter:
    """Converts parts of one document, keeping the `slips` it meets.

    What cannot be converted becomes UNSET, and an UNSET part is one whose slip was kept before.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self.slips: list[Slip] = []

    def convert(self, value: Any, hint: Any, path: Path) -> Any:
        """The value as the type hint has it; a mapping or list goes to the member of a union that is made for it."""
        if value is UNSET:
            return UNSET
        for member in _members(hint):
            if isinstance(value, dict) and isinstance(member, type) and issubclass(member, msgspec.Struct):
                return self._struct(value, member, path)
            if isinstance(value, dict) and get_origin(member) is dict:
                items = {key: self.convert(item, get_args(member)[1], (*path, key)) for key, item in value.items()}
                return UNSET if UNSET in items.values() else items
            if isinstance(value, list) and get_origin(member) is tuple and get_args(member)[-1] is ...:
                parts = [self.convert(item, get_args(member)[0], (*path, at)) for at, item in enumerate(value)]
                return UNSET if UNSET in parts else tuple(parts)
            if member is Any:
                return _whole(value)
        return self._plain(value, hint, path)

    def _struct(self, value: dict[str, Any], cls: type[msgspec.Struct], path: Path) -> Any:
        fields = {field.name: field for field in msgspec.structs.fields(cls)}
        for key in sorted(value.keys() - fields.keys()):
            self._slip((*path, key), f"is unknown; {nearest(key, fields)}", key=True)
        parts = {
            key: self.convert(item, fields[key].type, (*path, key)) for key, item in value.items() if key in fields
        }
        missing = [name for name, field in fields.items() if field.required and name not in value]
        for name in missing:
            self._slip(path, f"`{name}` is missing; it is {describe(fields[name].type)}", key=True)
        sound = {name: part for name, part in parts.items() if part is not UNSET}
        failed = {*missing, *(parts.keys() - sound.keys()), *(value.keys() - fields.keys())}
        built = self._build(cls, fields, sound, failed, path)
        return UNSET if failed else built

    def _build(
        self,
        cls: type[msgspec.Struct],
        fields: dict[str, FieldInfo],
        sound: dict[str, Any],
        failed: set[str],
        path: Path,
    ) -> Any:
        """The Struct of its sound parts; each of its own checks that fails is reported.

        A part that fails a check is left out for the next try, so that the others are checked too; what is then said
        about a part that was left out is no news.
        """
        failed = set(failed)
        while not any(fields[name].required for name in failed & fields.keys()):
            try:
                return cls(**sound)
            except ValueError as error:
                said = str(error)
            name = _culprit(said, sound)
            if not failed & set(re.findall(r"\w+", said)):
                self._slip((*path, name) if name else path, said.removeprefix(f"{name}: "), key=name is None)
            if name is None:
                break
            failed.add(name)
            del sound[name]
        return UNSET

    def _plain(self, value: Any, hint: Any, path: Path) -> Any:
        try:
            return msgspec.convert(value, hint)
        except msgspec.ValidationError:
            pass
        choices = [choice for member in _members(hint) if get_origin(member) is Literal for choice in get_args(member)]
        if choices and isinstance(value, str):
            self._slip(path, f"{value[:60]!r} is unknown; {nearest(value, choices)}")
        elif value is None:
            self._slip(path, f"is left empty; it is {describe(hint)}")
        else:
            self._slip(path, f"{self._shown(value, path)} is not {describe(hint)}{_cure(value, hint)}")
        return UNSET

    def _shown(self, value: Any, path: Path) -> str:
        if isinstance(value, (dict, list)):
            return "a mapping" if isinstance(value, dict) else "this list"
        return self._document.written.get(path, repr(value))[:60]

    def _slip(self, path: Path, message: str, *, key: bool = False) -> None:
        self.slips.append(self._document.slip(path, message, key=key))


def describe(hint: Any) -> str:
    """What a type hint allows, for people: `a whole number`, `a text or a number`.

    >>> describe(str | float | None), describe(Literal["auto", "recommend"]), describe(tuple[float, float])
    ('a text or a number', 'one of auto, recommend', 'a list of 2 numbers')
    """
    return " or ".join(_describe(member) for member in _members(hint) if member not in (NoneType, Any)) or "anything"


def _describe(member: Any) -> str:
    origin, args = get_origin(member), get_args(member)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin is tuple:
        several = describe(args[0]).removeprefix("a ") + "s"
        return f"a list of {several}" if args[-1] is ... else f"a list of {len(args)} {several}"
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    return names.get(member, "a mapping")


def _cure(value: Any, hint: Any) -> str:
    """What was probably meant by a scalar of the wrong type."""
    if isinstance(value, (int, float)) and str in _members(hint):
        return "; put it in quotes"
    if isinstance(value, float) and value.is_integer() and int in _members(hint):
        return f"; write {int(value)}"
    return ""


def _members(hint: Any) -> list[Any]:
    union = get_origin(hint) in (Union, UnionType)
    return [member for member in (get_args(hint) if union else (hint,)) if member is not UnsetType]


def _whole(value: Any) -> Any:
    """A free-form part as it is, or UNSET if anything in it could not be read."""
    parts: Collection[Any] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return UNSET if value is UNSET or any(_whole(part) is UNSET for part in parts) else value


def _culprit(said: str, parts: Mapping[str, Any]) -> str | None:
    """The part that a check's message is about: its first word, the value it quotes, or the first `part` in it."""
    first = re.match(r"\w+", said)
    if first and first[0] in parts:
        return first[0]
    quoted = (name for name, value in parts.items() if said.startswith(f"{value!r} "))
    ticked = (name for name in re.findall(r"`(\w+)", said) if name in parts)
    return next(quoted, None) or next(ticked, None)
