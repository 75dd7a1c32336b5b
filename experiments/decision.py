"""What to do about an experiment, given the evidence: one of a few typed rulings, each with its reason.

Every number here keeps its guarantee under continuous looking, so `decide` may be asked at any moment and as often as
one likes. Thresholds are on log e-values: by Ville's inequality a process that starts at 1 and is a supermartingale
under its null ever exceeds 1/a with probability at most a.
"""

import math
from collections.abc import Mapping

import msgspec

from experiments.experiment import Experiment, Verdict
from experiments.folding import Comparison, Evidence, Latches

HARM = 0.01
"""Probability, over the whole experiment, of rolling back a challenger that harms nothing."""
GUARDRAIL = 0.05
FUTILITY = 0.1
BALANCE = 0.001
"""Probability of calling a sound experiment invalid, for the sample ratio and for the arrivals each."""
RAMP_CAUTION = 3.0
"""A ramp waits while a present harm e-value exceeds this times the number of metrics watched."""


class Keep(msgspec.Struct, frozen=True, tag=True):
    """Go on; `reason` says what is still missing."""

    reason: str


class Conclude(msgspec.Struct, frozen=True, tag=True):
    """End the experiment. `challenger` is the one the verdict is about, where it is about one."""

    verdict: Verdict
    reason: str
    challenger: str | None = None


class Step(msgspec.Struct, frozen=True, tag=True):
    """Give the challengers the next share of the ramp."""

    split: dict[str, float]
    reason: str


class Fill(msgspec.Struct, frozen=True, tag=True):
    """The planned number of units has entered: new traffic goes to the champion until the verdict."""

    reason: str


Ruling = Keep | Conclude | Step | Fill


def promotion_threshold(experiment: Experiment) -> float:
    """The log e-value a challenger needs: ln(K/α_t) for K challengers (e-Bonferroni over the arms)."""
    level = experiment.settings.alpha if experiment.level is None else experiment.level
    return math.log(len(experiment.challengers) / level)


def harm_threshold(experiment: Experiment) -> float:
    """ln(G/α) for G watched metrics: the union over the goal and every guardrail."""
    return math.log((1 + len(experiment.guardrails)) * len(experiment.challengers) / HARM)


def latch(evidence: Evidence, experiment: Experiment) -> Evidence:
    """Evidence in which every process that has just reached its threshold keeps the value it reached it with."""
    return msgspec.structs.replace(
        evidence, comparisons=tuple(_latch(comparison, experiment) for comparison in evidence.comparisons)
    )


def _latch(comparison: Comparison, experiment: Experiment) -> Comparison:
    goal = comparison.metric == experiment.goal
    better = promotion_threshold(experiment) if goal else math.log(1 / GUARDRAIL)
    return msgspec.structs.replace(
        comparison,
        peak=max(comparison.peak, comparison.log_e_better or 0.0),
        latches=Latches(
            better=_reached(comparison.log_e_better, better),
            harm=_reached(comparison.log_e_harm, harm_threshold(experiment)),
            futile=_reached(comparison.log_e_futile, math.log(1 / FUTILITY)),
        ),
    )


def _reached(log_e: float | None, threshold: float) -> float | None:
    return log_e if log_e is not None and log_e >= threshold else None


def decide(experiment: Experiment, evidence: Evidence, split: Mapping[str, float], now: int) -> Ruling:
    """The ruling on a running experiment, from latched evidence; `split` is the one in force, `now` the horizon in µs.

    When several verdicts hold at once: invalid before rollback before promote before futile before inconclusive.
    """
    return (
        _invalid(experiment, evidence)
        or _rollback(experiment, evidence)
        or _promote(experiment, evidence, now)
        or _futile(experiment, evidence)
        or _inconclusive(experiment, evidence, now)
        or _fill(experiment, evidence)
        or _step(experiment, evidence, split)
        or Keep(_missing(experiment, evidence))
    )


def _invalid(experiment: Experiment, evidence: Evidence) -> Conclude | None:
    if evidence.balance.log_e() >= math.log(1 / BALANCE):
        counts = ", ".join(f"{arm} {n}" for arm, n in evidence.entered.items())
        return Conclude(
            "invalid", f"Sample-ratio mismatch: units entered as {counts}, which the split does not explain."
        )
    goal = experiment.metrics[experiment.goal]
    if goal.expected == "sampled" and evidence.arrival.log_e() >= math.log(1 / BALANCE):
        counts = ", ".join(f"{arm} {n}" for arm, n in evidence.arrival.totals().items())
        return Conclude(
            "invalid", f"Outcomes of {experiment.goal!r} arrive unevenly: {counts}, which the split does not explain."
        )
    return None


def _rollback(experiment: Experiment, evidence: Evidence) -> Conclude | None:
    harmed = [c for c in evidence.comparisons if c.latches.harm is not None]
    if not harmed:
        return None
    worst = max(harmed, key=lambda c: c.latches.harm or 0.0)
    margin = "" if worst.metric == experiment.goal else " by more than its margin"
    return Conclude(
        "rollback",
        f"{worst.challenger!r} is worse on {worst.metric!r}{margin} (e-value {_e(worst.latches.harm)}).",
        worst.challenger,
    )


def _promote(experiment: Experiment, evidence: Evidence, now: int) -> Conclude | None:
    if experiment.aa or not _mature(experiment, evidence):
        return None
    if experiment.started_at is None or now < experiment.started_at + experiment.settings.min_duration:
        return None
    winners = [
        challenger
        for challenger in experiment.challengers
        if all(c.latches.better is not None for c in evidence.comparisons if c.challenger == challenger)
    ]
    if not winners:
        return None
    best = max(
        (_of_goal(experiment, evidence, challenger) for challenger in winners), key=lambda c: c.latches.better or 0
    )
    guarded = f" and no worse on {', '.join(experiment.guardrails)}" if experiment.guardrails else ""
    return Conclude(
        "promote",
        f"{best.challenger!r} is better on {best.metric!r} (e-value {_e(best.latches.better)}, "
        f"needed {_e(promotion_threshold(experiment))}){guarded}.",
        best.challenger,
    )


def _futile(experiment: Experiment, evidence: Evidence) -> Conclude | None:
    goals = [_of_goal(experiment, evidence, challenger) for challenger in experiment.challengers]
    if not _mature(experiment, evidence) or any(
        c.latches.futile is None or c.latches.better is not None for c in goals
    ):
        return None
    return Conclude(
        "futile",
        f"No challenger is better on {experiment.goal!r} by the minimum effect of {experiment.settings.min_effect:g} "
        f"(e-value {_e(min(c.latches.futile or 0.0 for c in goals))}, needed {_e(math.log(1 / FUTILITY))}).",
    )


def _inconclusive(experiment: Experiment, evidence: Evidence, now: int) -> Conclude | None:
    settings = experiment.settings
    folded = evidence.matured(experiment.arms)
    if folded >= settings.max_units:
        return Conclude("inconclusive", f"All {settings.max_units} planned units have matured without a verdict.")
    if experiment.started_at is not None and now >= experiment.started_at + settings.max_duration:
        return Conclude("inconclusive", f"The longest duration has passed; {folded} units matured without a verdict.")
    return None


def _fill(experiment: Experiment, evidence: Evidence) -> Fill | None:
    entered = sum(evidence.entered.values())
    if entered < experiment.settings.max_units:
        return None
    return Fill(f"{entered} units have entered, {experiment.settings.max_units} were planned.")


def _step(experiment: Experiment, evidence: Evidence, split: Mapping[str, float]) -> Step | None:
    present = sum(split.get(challenger, 0.0) for challenger in experiment.challengers)
    share = next((step for step in experiment.settings.ramp if step > present + 1e-9), None)
    if share is None or evidence.matured(experiment.challengers) - evidence.stepped_at < experiment.settings.ramp_units:
        return None
    watched = 1 + len(experiment.guardrails)
    if any((c.process.log_e_harm() or 0.0) > math.log(RAMP_CAUTION * watched) for c in evidence.comparisons):
        return None
    return Step(ramp_split(experiment, share), f"The challengers' share rises from {present:g} to {share:g}.")


def ramp_split(experiment: Experiment, share: float) -> dict[str, float]:
    """The split in which the challengers share `share` evenly and the champion has the rest."""
    each = share / len(experiment.challengers)
    return {experiment.champion: 1.0 - share, **dict.fromkeys(experiment.challengers, each)}


def _mature(experiment: Experiment, evidence: Evidence) -> bool:
    """Whether every arm has the least number of matured units a verdict about it may rest on."""
    return all(_with_outcome(evidence, experiment, arm) >= experiment.settings.min_units for arm in experiment.arms)


def _with_outcome(evidence: Evidence, experiment: Experiment, arm: str) -> int:
    return evidence.tallies[arm].sums.get(experiment.goal, (0, 0.0))[0]


def _missing(experiment: Experiment, evidence: Evidence) -> str:
    """In one sentence, what an automatic verdict still waits for."""
    least = min(_with_outcome(evidence, experiment, arm) for arm in experiment.arms)
    if least < experiment.settings.min_units:
        needed = experiment.settings.min_units
        return f"Every arm needs {needed} units with a {experiment.goal!r} outcome; the least has {least}."
    waiting = [f"{c.metric} of {c.challenger!r}" for c in evidence.comparisons if c.latches.better is None]
    if waiting:
        return f"Not enough evidence yet on {', '.join(waiting)}."
    return "The evidence is there; the shortest duration has not passed yet."


def _of_goal(experiment: Experiment, evidence: Evidence, challenger: str) -> Comparison:
    return next(c for c in evidence.comparisons if c.challenger == challenger and c.metric == experiment.goal)


def _e(log_e: float | None) -> str:
    """An e-value as a person reads it."""
    value = log_e or 0.0
    return f"{math.exp(value):.3g}" if value < 300 else f"1e{value / math.log(10):.0f}"
