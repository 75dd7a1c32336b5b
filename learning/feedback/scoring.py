"""What a fresh answer is worth against what is known to be right, and what there is to learn from it."""

from collections import Counter
from typing import Any

from experiments.metrics import LABELLED, Metric, words
from learning.compile_runs import Example

LONGEST_QUOTE = 600
"""Characters of one value or remark that feedback quotes."""
MOST_REMARKS = 5
_MOST_WORDS = 12


def rescorable(goal: Metric | None) -> str | None:
    """Why fresh answers cannot be scored by this goal; None when they can.

    Only a label says of an answer nobody has seen yet whether it is right; a reported value was about one answer.
    """
    if goal is None:
        return "the program has no goal: give one metric `role: goal`"
    if goal.kind not in LABELLED:
        kinds = ", ".join(sorted(LABELLED))
        return f"its goal is of kind {goal.kind!r}, which scores only the answer it was reported for; {kinds} score any"
    if goal.lower_is_better:
        return "its goal has `direction: lower`: answers would be taught to miss their labels"
    return None


def score(
    goal: Metric, example: Example, output: dict[str, Any] | None, *, error: str | None = None
) -> tuple[float, str]:
    """The score of an answer to the example's input, in [0, 1], and feedback on it for whoever writes instructions.

    `output` is None for an answer that failed, `error` then says why; its score is 0. The goal is `rescorable`, and the
    example's label holds its field.
    """
    field = str(goal.field)
    expected = example.label[field]
    if output is None or field not in output:
        reason = error or f"it could not be read, or holds no {field!r}"
        points, verdict = 0.0, f"There was no answer that counts: {reason}. {field} should be {_quoted(expected)}."
    else:
        points = goal.score(goal.compare(expected, output[field]))
        verdict = _verdict(goal, points, expected, output[field])
    parts = [verdict, *_other_fields(field, example.label, output or {}), *_remarks(example.feedback)]
    return points, " ".join(parts)


def _verdict(goal: Metric, points: float, expected: Any, given: Any) -> str:
    if points == 1:
        return f"Right: {goal.field} is {_quoted(expected)}."
    said = f"{goal.field} should be {_quoted(expected)}, not {_quoted(given)}."
    if points > 0:
        return f"Partly right (score {points:.2f}): {said}{_difference(expected, given)}"
    return f"Wrong: {said}{_near_miss(expected, given)}"


def _near_miss(expected: Any, given: Any) -> str:
    """A remark on an answer that counts for nothing and was close."""
    if not (isinstance(expected, str) and isinstance(given, str)):
        same = not isinstance(expected, dict | list) and str(expected) == str(given)
        return " The value is right, its type is not." if same else ""
    wanted, said = words(expected), words(given)
    if wanted == said:
        return " Near miss: only capitals, punctuation, articles or spaces differ; it must be exactly as expected."
    if wanted and f" {' '.join(wanted)} " in f" {' '.join(said)} ":
        return " Near miss: what was expected is in the answer, with other words around it; answer with nothing else."
    return ""


def _difference(expected: Any, given: Any) -> str:
    """The words that are missing and those that are too many."""
    wanted, said = Counter(words(expected)), Counter(words(given))
    lists = [("Missing", wanted - said), ("Too much", said - wanted)]
    return "".join(f" {name}: {_listed(list(found.elements()))}." for name, found in lists if found)


def _listed(found: list[str]) -> str:
    return ", ".join(found[:_MOST_WORDS]) + (
        f" and {len(found) - _MOST_WORDS} more" if len(found) > _MOST_WORDS else ""
    )


def _other_fields(field: str, label: dict[str, Any], output: dict[str, Any]) -> list[str]:
    """What the label says of fields that the goal does not measure."""
    return [
        f"{name} should be {_quoted(label[name])}."
        for name in sorted(label)
        if name != field and (name not in output or output[name] != label[name])
    ]


def _remarks(feedback: tuple[str, ...]) -> list[str]:
    if not feedback:
        return []
    quoted = "; ".join(_quoted(remark) for remark in feedback[:MOST_REMARKS])
    return [f"Remarks on the answer given to this input in production: {quoted}."]


def _quoted(value: Any) -> str:
    written = repr(value)
    return written if len(written) <= LONGEST_QUOTE else f"{written[:LONGEST_QUOTE]}... ({len(written)} characters)"
