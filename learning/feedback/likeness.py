"""Inputs that say almost the same: found by MinHash, in time that grows with their number and not with its square.

An input is the set of its word triples (*shingles*). Two are alike when at least LIKE of the triples that either has
are common to both (the Jaccard index). What a good part of all inputs share, such as a form letter's fixed sentences or
a document that goes with every question, says nothing about likeness and is not looked at.

Source: Broder 1997, "On the resemblance and containment of documents": the least of all hashed shingles of two sets is
the same with a probability equal to their Jaccard index. With BANDS bands of ROWS such hashes, a pair of index s meets
in at least one band with probability 1 - (1 - s^ROWS)^BANDS: .9997 for .8, .0016 for .15. Every pair that meets is
verified exactly.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Words64 = NDArray[np.uint64]
Pairs = NDArray[np.int64]

LIKE = 0.8
"""The share of common word triples from which on two inputs count as near-duplicates (Lee et al. 2107.06499)."""
BANDS, ROWS = 20, 5
COMMON_SHARE, COMMON_LEAST = 0.1, 10
"""A triple in more than this share of the inputs, and in more than so many, is part of a form, not of a message."""
_NEIGHBOURS = 8
"""How many others in its bucket an input is compared with, so that a crowded bucket takes no longer than its length."""
_WORD = re.compile(r"\w+|[^\w\s]")
_ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
_CHUNK = 1 << 16


def groups(inputs: Sequence[dict[str, Any]]) -> list[int]:
    """For each input, the number of its group: the least position among those it is alike to, directly or by others.

    Case, white space and Unicode form make no difference; punctuation does, as `2+2` is not `2-2`.
    """
    written = [_words(content) for content in inputs]
    first: dict[tuple[str, ...], int] = {}
    same = [first.setdefault(words, at) for at, words in enumerate(written)]
    distinct = sorted(first.values())
    union = Union(len(inputs))
    for at, earlier in enumerate(same):
        union.join(at, earlier)
    for one, other in _alike([written[at] for at in distinct]):
        union.join(distinct[one], distinct[other])
    return [union.least(at) for at in range(len(inputs))]


class Union:
    """Groups of numbered things, each known by its least member (Tarjan 1975, with path halving)."""

    def __init__(self, size: int) -> None:
        self._above = list(range(size))

    def least(self, at: int) -> int:
        """The least member of the group that `at` is in."""
        above = self._above
        while above[at] != at:
            above[at] = above[above[at]]
            at = above[at]
        return at

    def join(self, one: int, other: int) -> None:
        """Makes one group of two."""
        low, high = sorted((self.least(one), self.least(other)))
        self._above[high] = low


def _words(content: dict[str, Any]) -> tuple[str, ...]:
    """The words and signs of all fields, each field behind its name."""
    texts = (f"{name}: {value}" for name, value in sorted(content.items()) if isinstance(value, str))
    others = {name: value for name, value in content.items() if not isinstance(value, str)}
    rest = msgspec.json.encode(others, order="sorted").decode() if others else ""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", "\n".join((*texts, rest))).casefold()))


def _alike(written: Sequence[tuple[str, ...]]) -> Iterator[tuple[int, int]]:
    """Pairs of positions whose inputs are alike."""
    if len(written) < 2:
        return
    sets = _telling(_shingles(written))
    filled = np.array([at for at, found in enumerate(sets) if found.size], dtype=np.int64)
    if filled.size < 2:
        return
    signatures = _signatures([sets[at] for at in filled])
    for one, other in filled[_likely(signatures)]:
        common = np.intersect1d(sets[one], sets[other], assume_unique=True).size
        if common >= LIKE * (sets[one].size + sets[other].size - common):
            yield int(one), int(other)


def _shingles(written: Sequence[tuple[str, ...]]) -> list[Words64]:
    """The hashed word triples of each input; one that is shorter than three words is a triple by itself."""
    known: dict[str, int] = {}
    found = []
    for words in written:
        padded = words if len(words) >= 3 else (*words, *[""] * (3 - len(words)))
        for word in padded:
            if word not in known:
                encoded = word.encode("utf-8", "surrogatepass")
                known[word] = int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest())
        hashed = np.fromiter((known[word] for word in padded), np.uint64, len(padded))
        found.append(np.unique(hashed[:-2] * _ODD[0] + hashed[1:-1] * _ODD[1] + hashed[2:] * _ODD[2]))
    return found


def _telling(sets: list[Words64]) -> list[Words64]:
    """The sets without the shingles that are part of a form."""
    ids, counts = np.unique(np.concatenate(sets), return_counts=True)
    forms = ids[counts > max(COMMON_LEAST, COMMON_SHARE * len(sets))]
    return [found[~np.isin(found, forms)] for found in sets] if forms.size else sets


def _signatures(sets: list[Words64]) -> Words64:
    """BANDS x ROWS least hashes of each set, one row per set."""
    flat = np.concatenate(sets)
    starts = np.concatenate([[0], np.cumsum([found.size for found in sets])[:-1]])
    signatures = np.empty((len(sets), BANDS * ROWS), dtype=np.uint64)
    for number in range(BANDS * ROWS):
        seed = hashlib.blake2b(b"ratchet likeness %d" % number, digest_size=16).digest()
        factor, shift = np.frombuffer(seed, "<u8")
        mixed = (flat ^ shift) * (factor | np.uint64(1))
        mixed ^= mixed >> np.uint64(29)
        signatures[:, number] = np.minimum.reduceat(mixed * _ODD[0], starts)
    return signatures


def _likely(signatures: Words64) -> Pairs:
    """Pairs of rows that share a band, and on the whole enough hashes to be worth verifying."""
    found = [np.empty((0, 2), dtype=np.int64)]
    for band in range(BANDS):
        part = signatures[:, band * ROWS : (band + 1) * ROWS]
        keys = (part * np.arange(1, 2 * ROWS, 2, dtype=np.uint64) * _ODD[1]).sum(axis=1, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        for distance in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
            near, far = order[:-distance], order[distance:]
            met = keys[near] == keys[far]
            found.append(np.stack([near[met], far[met]], axis=1))
    pairs: Pairs = np.unique(np.concatenate(found), axis=0)
    kept = [pairs[:0]]
    for start in range(0, len(pairs), _CHUNK):
        some = pairs[start : start + _CHUNK]
        agreement = (signatures[some[:, 0]] == signatures[some[:, 1]]).mean(axis=1)
        kept.append(some[agreement >= LIKE - 0.2])
    return np.concatenate(kept)
