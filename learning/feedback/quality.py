"""What became of the feedback that a dataset was made from, and what an operator should know of the result."""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from learning.compile_runs import Example

MOST_SAMPLES, MOST_NAMED = 20, 10
"""How many contradictions and groups of near-duplicates a report names, and how many predictions of each."""
FEW_UNITS = 20
FEW_OF_A_CLASS = 5
LOW_COVERAGE = 0.5
ONE_SIDED = 0.9

BEFORE_CHANGE = "before the change"
NO_LABEL = "without a label for the goal"
CONTRADICTED = "outvoted by another label for the same input"
UNDECIDED = "labels for the same input in a tie"
DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near-duplicate"
ALSO_SEALED = "also said by a sealed unit"
BEYOND_LIMIT = "beyond the limit"


class Part(msgspec.Struct, frozen=True):
    """One part of a dataset. `classes` counts its labels; it is empty where the goal's labels are free text."""

    examples: int
    units: int
    classes: dict[str, int] = {}


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How a dataset came about; every example that was considered is in a part, or counted under one reason.

    `contradictions` and `near_duplicates` name predictions by id, some of each; the counts are of all. `coverage` is
    the share of the feedback since `since` that holds a label for the goal. `refusal` says why there is no dataset.
    """

    considered: int
    left_out: dict[str, int]
    parts: dict[str, Part]
    contradictory_inputs: int
    contradictions: tuple[tuple[str, ...], ...]
    near_duplicate_groups: int
    near_duplicates: tuple[tuple[str, ...], ...]
    coverage: float
    since: int | None
    first_at: int | None
    last_at: int | None
    warnings: tuple[str, ...] = ()
    refusal: str | None = None

    @property
    def used(self) -> int:
        """Examples in all three parts."""
        return sum(part.examples for part in self.parts.values())


def report(  # noqa: PLR0913  # all that is known of a dataset
    *,
    considered: int,
    left_out: Mapping[str, int],
    parts: Mapping[str, Sequence[Example]],
    classes: Mapping[str, Sequence[str]],
    contradictions: Sequence[tuple[str, ...]],
    near_duplicates: Sequence[tuple[str, ...]],
    coverage: float,
    since: int | None,
    least: Mapping[str, int],
) -> Quality:
    """The report, with its warnings. `classes` holds those of each part's examples; `least` is what each part needs."""
    moments = [example.at for examples in parts.values() for example in examples]
    facts = Quality(
        considered=considered,
        left_out={reason: count for reason, count in left_out.items() if count},
        parts={name: _part(examples, classes[name]) for name, examples in parts.items()},
        contradictory_inputs=len(contradictions),
        contradictions=_samples(contradictions),
        near_duplicate_groups=len(near_duplicates),
        near_duplicates=_samples(near_duplicates),
        coverage=coverage,
        since=since,
        first_at=min(moments, default=None),
        last_at=max(moments, default=None),
    )
    return msgspec.structs.replace(facts, warnings=_warnings(facts), refusal=_refusal(facts, least))


def _samples(groups: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    return tuple(group[:MOST_NAMED] for group in groups[:MOST_SAMPLES])


def _part(examples: Sequence[Example], classes: Sequence[str]) -> Part:
    return Part(len(examples), len({example.unit_hash for example in examples}), dict(sorted(Counter(classes).items())))


def _refusal(facts: Quality, least: Mapping[str, int]) -> str | None:
    have = {name: part.examples for name, part in facts.parts.items()}
    if all(have[name] >= needed for name, needed in least.items()):
        return None
    lost = ", ".join(f"{count} {reason}" for reason, count in facts.left_out.items())
    units = sum(part.units for part in facts.parts.values())
    return (
        f"too few examples: {have['train']} to learn from, {have['val']} to choose by and {have['holdout']} in the "
        f"sealed holdout, of {least['train']}, {least['val']} and {least['holdout']} needed; {facts.considered} "
        f"predictions with feedback gave {facts.used} usable examples of {units} units"
        + (f" (left out: {lost})" if lost else "")
    )


def _warnings(facts: Quality) -> tuple[str, ...]:
    """What is worth knowing before trusting a program that learned from this, in plain sentences."""
    left = facts.left_out
    labelled = facts.considered - left.get(BEFORE_CHANGE, 0) - left.get(NO_LABEL, 0)
    shares = (
        (facts.contradictory_inputs, 0.02, "labelled examples have inputs with labels that contradict each other"),
        (left.get(NEAR_DUPLICATE, 0), 0.3, "labelled examples were near-duplicates of others"),
        (left.get(ALSO_SEALED, 0), 0.2, "labelled examples are lost to learning, because sealed units say the same"),
    )
    said = [f"{count} of {labelled} {what}" for count, bearable, what in shares if count > bearable * labelled]
    if 0 < facts.coverage < LOW_COVERAGE:
        said.append(f"only {facts.coverage:.0%} of the feedback holds a label for the goal; the rest teaches nothing")
    return (*said, *_balance(facts.parts), *_few_units(facts.parts["holdout"]))


def _balance(parts: Mapping[str, Part]) -> list[str]:
    train, holdout = parts["train"], parts["holdout"]
    rare = [name for name in holdout.classes if train.classes.get(name, 0) < FEW_OF_A_CLASS]
    said = []
    if rare:
        listed = ", ".join(f"{name!r} ({train.classes.get(name, 0)})" for name in rare)
        said.append(f"the holdout asks for labels with few or no examples to learn from: {listed}")
    for name, count in holdout.classes.items():
        if count > ONE_SIDED * holdout.examples:
            said.append(
                f"{count} of {holdout.examples} labels in the holdout are {name!r}: to say so always scores that"
            )
    return said


def _few_units(holdout: Part) -> list[str]:
    if 0 < holdout.units < FEW_UNITS <= holdout.examples:
        return [f"the holdout comes from only {holdout.units} units, which may not speak for all"]
    return []
