"""The gate: whether a compiled candidate is worth a trial, from its answers and the champion's on the sealed holdout.

A filter, not the judge: what it admits goes before users in an experiment, and the experiment decides. It asks for
evidence all the same, because every trial costs traffic and time. A candidate whose metric is pure noise passes with a
probability of 1 - confidence at most (`bounds`).
"""

from collections.abc import Iterator, Sequence
from statistics import fmean, median

import msgspec

from experiments.quantities import SECOND, fraction
from learning.bounds import lower_bound
from learning.compile_runs import Measured, Verdict
from learning.definitions import GateOptions
from learning.states import State

MOST_ERRORS = 0.1
"""The share of failed answers beyond which scores tell more of the language model's health than of the candidate."""
LEAST_DELAY = SECOND // 20
"""µs by which the median answer must have become slower before its growth is anybody's concern."""


def judge(
    measured: Sequence[Measured],
    *,
    champion: State,
    candidate: State,
    options: GateOptions,
    copied: Sequence[str] = (),
) -> Verdict:
    """The verdict, with every reason to reject. `copied` holds passages of training text in the candidate's prompt."""
    confidence = options.confidence
    verdict = Verdict(
        admitted=False,
        faults=(),
        examples=len(measured),
        baseline_score=fmean(one.baseline for one in measured) if measured else 0.0,
        candidate_score=fmean(one.candidate for one in measured) if measured else 0.0,
        gain=fmean(one.candidate - one.baseline for one in measured) if measured else 0.0,
        lower=lower_bound([one.candidate - one.baseline for one in measured], confidence),
        confidence=confidence,
        cost_growth=_cost_growth(measured),
        latency_growth=_latency_growth(measured),
        prompt_characters=prompt_characters(candidate),
    )
    faults = (
        *_about_errors(measured),
        *_about_scores(verdict, options),
        *_about_means(verdict, measured, options),
        *_about_prompt(verdict, prompt_characters(champion), copied, options),
    )
    return msgspec.structs.replace(verdict, faults=faults, admitted=not faults)


def prompt_characters(state: State) -> int:
    """How long all instructions and demonstrations of a program are, as a model is given them in every call."""
    return sum(
        len(part["instructions"]) + sum(len(str(value)) for demo in part["demos"] for value in demo.values())
        for part in state.values()
    )


def _cost_growth(measured: Sequence[Measured]) -> float | None:
    """By what share the candidate costs more, over the examples whose two costs are known; None where none are.

    Infinite where the champion costs nothing and the candidate does not.
    """
    pairs = [(one.baseline_cost, one.candidate_cost) for one in measured]
    known = [(before, after) for before, after in pairs if before is not None and after is not None]
    return _growth(sum(before for before, _ in known), sum(after for _, after in known)) if known else None


def _latency_growth(measured: Sequence[Measured]) -> float | None:
    """By what share the candidate's median answer takes longer; None without an answer."""
    return _growth(*_medians(measured)) if measured else None


def _medians(measured: Sequence[Measured]) -> tuple[float, float]:
    """The median latencies of champion and candidate in µs."""
    return median(one.baseline_latency for one in measured), median(one.candidate_latency for one in measured)


def _growth(before: float, after: float) -> float:
    if before:
        return after / before - 1
    return float("inf") if after else 0.0


def _about_errors(measured: Sequence[Measured]) -> Iterator[str]:
    if not measured:
        yield "nothing was measured: the holdout is empty"
    errors = [one.error for one in measured if one.error is not None]
    if len(errors) > MOST_ERRORS * len(measured):
        yield (
            f"{len(errors)} of {len(measured)} examples of the holdout have a failed answer, more than "
            f"{MOST_ERRORS:.0%}: the scores cannot be trusted (first failure: {errors[0]})"
        )


def _about_scores(verdict: Verdict, options: GateOptions) -> Iterator[str]:
    if verdict.examples and not verdict.lower > options.min_gain:
        yield (
            f"the gain of {verdict.gain:+.3f} ({verdict.baseline_score:.3f} to {verdict.candidate_score:.3f} on "
            f"{verdict.examples} examples) is not sure enough: at {verdict.confidence:.0%} confidence it may be as low "
            f"as {verdict.lower:+.3f}, and must be above {options.min_gain:g}"
        )
    if verdict.candidate_score < options.min_score:
        yield f"the score of {verdict.candidate_score:.3f} is below the least allowed, {options.min_score:g}"


def _about_means(verdict: Verdict, measured: Sequence[Measured], options: GateOptions) -> Iterator[str]:
    most_cost, most_latency = fraction(options.max_cost_growth), fraction(options.max_latency_growth)
    if verdict.cost_growth is not None and verdict.cost_growth > most_cost:
        yield f"{_told(verdict.cost_growth, 'cost')}, and at most {most_cost:.0%} more is allowed"
    if verdict.latency_growth is not None and verdict.latency_growth > most_latency:
        before, after = _medians(measured)
        if after - before > LEAST_DELAY:
            yield (
                f"{_told(verdict.latency_growth, 'median latency')} ({before / SECOND:.2f} s to "
                f"{after / SECOND:.2f} s), and at most {most_latency:.0%} more is allowed"
            )


def _told(growth: float, what: str) -> str:
    return f"the {what} grows by {growth:.0%}" if growth != float("inf") else f"the {what} was nothing and no longer is"


def _about_prompt(verdict: Verdict, before: int, copied: Sequence[str], options: GateOptions) -> Iterator[str]:
    if verdict.prompt_characters > max(options.max_prompt_characters, before):
        yield (
            f"the prompt has {verdict.prompt_characters} characters, and {options.max_prompt_characters} are allowed "
            f"(the champion's has {before})"
        )
    if copied:
        yield (
            f"the prompt repeats what users wrote in {len(copied)} places (the longest has {max(map(len, copied))} "
            "characters), and would show it in every call"
        )
