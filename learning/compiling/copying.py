"""Training text that found its way into a prompt, where every future user could come to read it.

Reflection LMs like to quote what they were shown. Only instructions are looked at: demonstrations are training text by
design, and whoever lets an optimizer add them has decided that.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from learning.states import State

SHORTEST = 8
"""Words in a row that count as copied; of a text that is shorter, all of it from five words up."""
_LEAST = 5
_MOST = 20
_LONGEST = 300
_WORD = re.compile(r"\w+")
_PERSONAL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+|\+?\d(?:[ ./-]?\d){6,}")
"""E-mail addresses, and numbers of seven digits and more: telling in themselves."""


def copied(candidate: State, champion: State, shown: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Passages of the candidate's instructions that stand in the inputs and labels `shown` to the optimizer.

    What the champion's instructions said before is nobody's copy. At most twenty passages of 300 characters.
    """
    texts = [text for fields in shown for text in _texts(fields)]
    own = "\n".join(str(held["instructions"]) for held in champion.values())
    known = _grams([own])
    grams = _grams(texts) - known
    personal = {found for text in texts for found in _PERSONAL.findall(text)} - set(_PERSONAL.findall(own))
    found: dict[str, None] = {}
    for held in candidate.values():
        written = str(held["instructions"])
        found.update(dict.fromkeys(_passages(written, grams)))
        found.update(dict.fromkeys(match for match in _PERSONAL.findall(written) if match in personal))
    return tuple(passage[:_LONGEST] for passage in list(found)[:_MOST])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from _texts(member)
    elif isinstance(value, list | tuple):
        for member in value:
            yield from _texts(member)


def _grams(texts: Iterable[str]) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for text in texts:
        words = _WORD.findall(text.casefold())
        length = min(SHORTEST, len(words))
        if length >= _LEAST:
            found.update(tuple(words[at : at + length]) for at in range(len(words) - length + 1))
    return found


def _passages(written: str, grams: set[tuple[str, ...]]) -> Iterator[str]:
    """The longest stretches of a text that are covered by known runs of words."""
    spans = [match.span() for match in _WORD.finditer(written)]
    words = [written[begin:end].casefold() for begin, end in spans]
    begin = end = -1
    for at in range(len(words)):
        ends = range(at + _LEAST, min(at + SHORTEST, len(words)) + 1)
        reach = max((to for to in ends if tuple(words[at:to]) in grams), default=-1)
        if reach < 0:
            continue
        if at > end >= 0:
            yield written[spans[begin][0] : spans[end - 1][1]]
        if at > end:
            begin = at
        end = max(end, reach)
    if end >= 0:
        yield written[spans[begin][0] : spans[end - 1][1]]
