"""YAML as plain data, and the place in the file where every part of it was written.

Scalars are read by YAML 1.2's core schema (a date is a text, `1e3` a number). Writings that YAML 1.1 and 1.2 read
differently (`yes`, `off`, `12:30`, `010`, `1_000`) are refused: their writer meant one thing, and half of all readers
take them for the other. Nothing but scalars, lists and mappings is ever built.
"""

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path as File
from typing import Any

import msgspec
import yaml
from msgspec import UNSET, UnsetType

from experiments.errors import Fault, Invalid

Path = tuple[str | int, ...]
"""Keys and list positions from the root to one part of the document."""

LARGEST = 256 * 1024
"""Characters of a file; a hundred programs take about half of it."""
DEEPEST = 32
MOST_PARTS = 50_000
"""Parts after every alias is written out, so that a few lines cannot unfold into gigabytes."""
LARGEST_INTEGER = 2**53
"""Above it JSON readers disagree about a whole number."""


class Place(msgspec.Struct, frozen=True, order=True):
    """Line and column, from 1, where something begins."""

    line: int
    column: int


class Slip(msgspec.Struct, frozen=True):
    """One thing wrong in the document: where, in which part, and what is wrong with it, in a sentence."""

    place: Place
    path: Path
    message: str


class Document(msgspec.Struct, frozen=True):
    """Plain `data`, the places of its values and of their keys, and how its numbers were written.

    A mapping or a list under a key is at that key: a person looks for the word, not for the bracket after it.
    A part that could not be read is UNSET in `data` and has its slip.
    """

    data: Any
    values: dict[Path, Place]
    keys: dict[Path, Place]
    written: dict[Path, str]
    slips: tuple[Slip, ...]

    def place(self, path: Path, *, key: bool = False) -> Place:
        """Where `path` is: its value, or its `key`; where it was left out, the nearest part around it."""
        while path:
            first, second = (self.keys, self.values) if key else (self.values, self.keys)
            if found := first.get(path) or second.get(path):
                return found
            path, key = path[:-1], True
        return self.values.get((), Place(1, 1))

    def slip(self, path: Path, message: str, *, key: bool = False) -> Slip:
        """What is wrong with the value at `path`, or with its `key`."""
        return Slip(self.place(path, key=key), path, message)


def dotted(path: Path) -> str:
    """The path for people: `programs.triage.experiments.ramp[1]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def pointer(path: Path) -> str:
    """The path as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def parse(text: str, filename: str) -> Document:
    """The document in `text`, with the slips that do not hinder reading the rest.

    Raises: Invalid naming `filename`, line and column where it cannot be read at all: no YAML, too large, too deep.
    """
    if len(text) > LARGEST:
        raise _unreadable(filename, Place(1, 1), f"{len(text)} characters are more than the limit of {LARGEST}")
    builder = _Builder()
    try:
        node = _Loader(text).get_single_node()
        data = None if node is None else builder.build(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = _place(mark) if mark else Place(1, 1)
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise _unreadable(filename, place, said + _hint(said)) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Place(before.count("\n") + 1, error.position - before.rfind("\n"))
        raise _unreadable(filename, place, f"the character {error.character:#06x} is not allowed") from None
    return Document(data, builder.values, builder.keys, builder.written, tuple(builder.slips))


def read_file(path: File) -> str:
    """The text of a definitions file. Raises: Invalid where it cannot be read as one."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise _whole(f"{path}: is not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise _whole(f"{path}: cannot be read: {error.strerror}") from None


def importable_beside(path: File) -> None:
    """Let programs name modules (`module: my_module:MyModule`) that stand beside their definitions file.

    The folder comes last, so that a file there never stands in for an installed package.
    """
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.append(folder)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader up to its nodes, with YAML 1.2's scalars and a bound on the depth."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.composer.ComposerError(
                None,
                None,
                f"nested more than {DEEPEST} levels deep",
                self.peek_event().start_mark,  # type: ignore[no-untyped-call]  # the stubs leave it out
            )
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


_TAG = "tag:yaml.org,2002:"
_AMBIGUOUS = "ambiguous"
_SPELLINGS = {
    _TAG + "null": [r"", r"~", r"null|Null|NULL"],
    _TAG + "bool": [r"true|True|TRUE|false|False|FALSE"],
    _TAG + "int": [r"[-+]?(?:0|[1-9][0-9]*)"],
    _TAG + "float": [
        r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?",
        r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    ],
    _AMBIGUOUS: [
        r"(?i:yes|no|on|off)",
        r"[-+]?[0-9]+(?::[0-5]?[0-9])+(?:\.[0-9]*)?",
        r"[-+]?0[0-9_]+|0[xob][0-9a-fA-F_]+|[-+]?[0-9]+(?:_[0-9_]*)+(?:\.[0-9_]*)?",
    ],
}
_Loader.yaml_implicit_resolvers = {}
for _tag, _patterns in _SPELLINGS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{'|'.join(_patterns)})$"), None)


class _Builder:
    """Turns nodes into plain data and remembers where each part was written."""

    def __init__(self) -> None:
        self.values: dict[Path, Place] = {}
        self.keys: dict[Path, Place] = {}
        self.written: dict[Path, str] = {}
        self.slips: list[Slip] = []

    def build(self, node: yaml.Node, path: Path) -> Any:
        """The data of a node and, through its places, of all below it."""
        if isinstance(node, yaml.ScalarNode) or path not in self.keys:
            self.values[path] = _place(node.start_mark)
        if len(self.values) + len(self.keys) > MOST_PARTS or len(path) > DEEPEST:
            raise yaml.composer.ComposerError(
                None, None, f"aliases unfold into more than {MOST_PARTS} parts or {DEEPEST} levels", node.start_mark
            )
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.build(item, (*path, position)) for position, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._slip(key, path, "a key is a plain name, not a list or a mapping")
                continue
            below = (*path, key.value)
            if below in self.keys:
                self._slip(key, below, f"is written twice; first on line {self.keys[below].line}")
                continue
            self.keys[below] = _place(key.start_mark)
            data[key.value] = self.build(value, below)
        return data

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        text = node.value
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _SCALARS:
            return self._slip(
                node, path, f"the tag {node.tag!r} is not allowed; only texts, numbers, lists and mappings are"
            )
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
            return self._slip(node, path, "holds a character that no database keeps (NUL or half a surrogate pair)")
        try:
            value = _SCALARS[node.tag](text)
        except ValueError as error:
            return self._slip(node, path, str(error))
        if not isinstance(value, str):
            self.written[path] = text
        return value

    def _slip(self, node: yaml.Node, path: Path, message: str) -> UnsetType:
        self.slips.append(Slip(_place(node.start_mark), path, message))
        return UNSET


def _integer(text: str) -> int:
    if len(text) > 20 or abs(int(text)) > LARGEST_INTEGER:
        raise ValueError(f"{text[:24]} is larger than 2^53; a text goes in quotes")
    return int(text)


def _number(text: str) -> float:
    value = float(text.replace(".inf", "inf").replace(".nan", "nan")) if len(text) < 400 else math.inf
    if not math.isfinite(value):
        raise ValueError(f"{text[:24]} is not a finite number")
    return value


def _refuse(text: str) -> str:
    if text[0] in "yYnNoO":
        truth = "true" if text.lower() in ("yes", "on") else "false"
        raise ValueError(
            f"{text} without quotes is {truth} to some YAML readers and a text to others: write {truth} or '{text}'"
        )
    if ":" in text:
        raise ValueError(
            f"{text} without quotes is a number in base 60 to some YAML readers: write '{text}', or 90s, 5m, 24h"
        )
    raise ValueError(
        f"{text} is read differently by different YAML readers: write a plain decimal number, or '{text}' for a text"
    )


_SCALARS: dict[str, Callable[[str], Any]] = {
    _TAG + "str": str,
    _TAG + "null": lambda _: None,
    _TAG + "bool": lambda text: text.lower() == "true",
    _TAG + "int": _integer,
    _TAG + "float": _number,
    _AMBIGUOUS: _refuse,
}


def _place(mark: yaml.Mark) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _unreadable(filename: str, place: Place, said: str) -> Invalid:
    return _whole(f"{filename}:{place.line}:{place.column}: {said}")


def _whole(message: str) -> Invalid:
    return Invalid(message, faults=[Fault("", message)])


def _hint(said: str) -> str:
    """What people mostly did when PyYAML says this."""
    if "mapping values are not allowed" in said:
        return "; put a text that holds ': ' in quotes"
    if "cannot start any token" in said:
        return "; indent with spaces, and put a text that begins with a special character in quotes"
    return ""
