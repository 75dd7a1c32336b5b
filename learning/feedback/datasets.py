"""From the feedback of production to examples for learning: clean, balanced, and with a part that stays sealed.

Whether a unit is *sealed* depends on nothing but its hash: all it ever says belongs to the holdout, in every compile to
come, and no list of sealed data is needed. What an open unit says just as well, word for word or nearly so, is left out
rather than learned from. The open examples are parted by time: the newest choose between candidates, older ones teach.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable

import msgspec

from experiments.metrics import Metric, words
from learning.compile_runs import Dataset, Example
from learning.feedback import quality
from learning.feedback.likeness import Union, groups
from learning.feedback.quality import Quality
from learning.variants import digest

SEALED_SHARE = 0.4
"""Of all units. Of the hundred labels that a recompile waits for, forty judge its result."""
VAL_SHARE = 1 / 3
"""Of the open examples."""
PER_UNIT = 20
"""Examples that one unit may have in a dataset: the newest. A talkative one does not speak for all."""
MOST_CLASSES = 20
"""Labels of more different values than this are free text, which is not balanced."""


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """The most examples that a part may hold, and the least that it needs.

    Beyond the most, an example costs calls and teaches little: an optimizer scores many a candidate on the whole
    valset, and a holdout of 300 notices a gain of .06. Below the least, its numbers are chance.
    """

    train: int = 200
    val: int = 100
    holdout: int = 300
    least_train: int = 10
    least_val: int = 5
    least_holdout: int = 20


class _Row(msgspec.Struct, frozen=True):
    """An example, its label in the form in which two are the same to the goal, and the side it is on.

    Once the classes are known, `answer` is the class: the same, or nothing where labels are free text. Rows of one
    `kind` are near-duplicates.
    """

    example: Example
    answer: str
    sealed: bool
    kind: int

    @property
    def id(self) -> str:
        return self.example.prediction_id


def sealed(program: str, unit_hash: str) -> bool:
    """Whether what this unit says is for the holdout alone, forever."""
    drawn = hashlib.blake2b(f"{program}\0{unit_hash}\0sealed".encode(), digest_size=8).digest()
    return int.from_bytes(drawn) < SEALED_SHARE * 2**64


def build(
    examples: Iterable[Example], *, program: str, goal: Metric, since: int | None = None, sizes: Sizes | None = None
) -> tuple[Dataset | None, Quality]:
    """The dataset, or None where too little is left, and how it came about: `Quality.refusal` has the numbers.

    Only predictions from `since` (µs) on count. The goal can score fresh answers (`scoring.rescorable`). The order of
    `examples` makes no difference.
    """
    limits, left_out = sizes or Sizes(), Counter[str]()
    given = sorted(examples, key=lambda example: (-example.at, example.prediction_id))
    current = [example for example in given if since is None or example.at >= since]
    labelled = [example for example in current if goal.field in example.label]
    left_out[quality.BEFORE_CHANGE] = len(given) - len(current)
    left_out[quality.NO_LABEL] = len(current) - len(labelled)
    rows = [
        _Row(example, _answer(goal, example), sealed(program, example.unit_hash), kind)
        for example, kind in zip(labelled, groups([example.input for example in labelled]), strict=True)
    ]
    rows, contradictions = _settled(rows, left_out, exclusive=goal.kind != "token_f1")
    rows, near_duplicates = _thinned(rows, left_out)
    parts = _divided(_classed(_heard(rows)), limits)
    left_out[quality.BEYOND_LIMIT] = len(rows) - sum(map(len, parts.values()))
    report = quality.report(
        considered=len(given),
        left_out=left_out,
        parts={name: [row.example for row in part] for name, part in parts.items()},
        classes={name: [row.answer for row in part if row.answer] for name, part in parts.items()},
        contradictions=contradictions,
        near_duplicates=near_duplicates,
        coverage=len(labelled) / len(current) if current else 0.0,
        since=since,
        least={"train": limits.least_train, "val": limits.least_val, "holdout": limits.least_holdout},
    )
    return (None if report.refusal else _dataset(parts)), report


def _answer(goal: Metric, example: Example) -> str:
    value = example.label[str(goal.field)]
    if goal.kind != "exact_match":
        return " ".join(words(value))
    return value if isinstance(value, str) else msgspec.json.encode(value, order="sorted").decode()


def _settled(rows: list[_Row], left_out: Counter[str], *, exclusive: bool) -> tuple[list[_Row], list[tuple[str, ...]]]:
    """One row for every input, and the ids of those that contradict each other. A tie loses all of them.

    Unless labels are `exclusive`, two wordings do not contradict each other, and the newest stands. What a sealed unit
    said too has a vote on the label of the holdout, and is not learned from.
    """
    by_input = defaultdict[bytes, list[_Row]](list)
    for row in rows:
        by_input[msgspec.json.encode(row.example.input, order="sorted")].append(row)
    closed = {row.kind for row in rows if row.sealed}
    kept, contradictions = [], []
    for same in by_input.values():
        winners = _majority(same) if exclusive else same
        if len(winners) < len(same):
            contradictions.append(tuple(row.id for row in same))
            left_out[quality.CONTRADICTED if winners else quality.UNDECIDED] += len(same) - len(winners)
        usable = [row for row in winners if row.sealed or row.kind not in closed]
        left_out[quality.ALSO_SEALED] += len(winners) - len(usable)
        left_out[quality.DUPLICATE] += len(usable[1:])
        kept += usable[:1]
    return _newest_first(kept), contradictions


def _majority(same: list[_Row]) -> list[_Row]:
    """The rows with the answer that most units gave."""
    votes = Counter(answer for _, answer in {(row.example.unit_hash, row.answer) for row in same}).most_common(2)
    if len(votes) > 1 and votes[0][1] == votes[1][1]:
        return []
    return [row for row in same if row.answer == votes[0][0]]


def _thinned(rows: list[_Row], left_out: Counter[str]) -> tuple[list[_Row], list[tuple[str, ...]]]:
    """The newest row for every answer among near-duplicates, and the ids of each group of these."""
    alike, newest = defaultdict[int, list[str]](list), dict[tuple[int, str], _Row]()
    for row in rows:
        alike[row.kind].append(row.id)
        newest.setdefault((row.kind, row.answer), row)
    left_out[quality.NEAR_DUPLICATE] = len(rows) - len(newest)
    return list(newest.values()), [tuple(ids) for ids in alike.values() if len(ids) > 1]


def _heard(rows: list[_Row]) -> list[_Row]:
    """The newest of every unit, up to PER_UNIT."""
    heard, said = [], Counter[str]()
    for row in rows:
        said[row.example.unit_hash] += 1
        if said[row.example.unit_hash] <= PER_UNIT:
            heard.append(row)
    return heard


def _classed(rows: list[_Row]) -> list[_Row]:
    """The rows by class; without classes where labels are free text."""
    if len({row.answer for row in rows}) <= min(MOST_CLASSES, len(rows) / 2):
        return rows
    return [msgspec.structs.replace(row, answer="") for row in rows]


def _divided(rows: list[_Row], sizes: Sizes) -> dict[str, list[_Row]]:
    usable = _newest([row for row in rows if not row.sealed], sizes.train + sizes.val)
    val = _newest_apart(usable, min(sizes.val, round(VAL_SHARE * len(usable))))
    chosen = {row.id for row in val}
    train = _newest([row for row in usable if row.id not in chosen], sizes.train)
    return {"train": train, "val": val, "holdout": _newest([row for row in rows if row.sealed], sizes.holdout)}


def _newest(rows: list[_Row], most: int) -> list[_Row]:
    """The newest of every class, as many as keep its share."""
    quotas, chosen = _quotas(rows, most), []
    for row in rows:
        if quotas[row.answer]:
            quotas[row.answer] -= 1
            chosen.append(row)
    return chosen


def _newest_apart(rows: list[_Row], most: int) -> list[_Row]:
    """About so many of the newest, by class, without a unit or a near-duplicate of those that remain."""
    quotas, chosen = _quotas(rows, most), list[_Row]()
    for together in _inseparable(rows):
        wanted = Counter(row.answer for row in together)
        if wanted <= quotas:
            quotas -= wanted
            chosen += together
    return chosen


def _inseparable(rows: list[_Row]) -> Iterable[list[_Row]]:
    """The rows in groups that share neither a unit nor a near-duplicate, the group of the newest first."""
    union, seen = Union(len(rows)), dict[str | int, int]()
    for at, row in enumerate(rows):
        for tie in (row.example.unit_hash, row.kind):
            union.join(at, seen.setdefault(tie, at))
    together = defaultdict[int, list[_Row]](list)
    for at, row in enumerate(rows):
        together[union.least(at)].append(row)
    return together.values()


def _quotas(rows: list[_Row], most: int) -> Counter[str]:
    """How many rows of each class keep its share among `most` (largest remainder), one of each if there is room."""
    have = Counter(row.answer for row in rows)
    if len(rows) <= most:
        return have
    exact = {name: most * count / len(rows) for name, count in have.items()}
    quotas = Counter({name: int(share) for name, share in exact.items()})
    by_need = sorted(exact, key=lambda name: (quotas[name] > 0, quotas[name] - exact[name], name))
    for name in by_need[: most - quotas.total()]:
        quotas[name] += 1
    return quotas


def _newest_first(rows: list[_Row]) -> list[_Row]:
    return sorted(rows, key=lambda row: (-row.example.at, row.id))


def _dataset(parts: dict[str, list[_Row]]) -> Dataset:
    """The parts in an order that means nothing, so that the first few of any are as good as the whole."""
    shuffled = {
        name: tuple(sorted((row.example for row in part), key=lambda example: digest(example.prediction_id)))
        for name, part in parts.items()
    }
    return Dataset(**shuffled, digest=digest([shuffled[name] for name in ("train", "val", "holdout")]))
