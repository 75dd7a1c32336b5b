"""What to do about an experiment, given the evidence: one of a few typed rulings, each with its reason.

Every number here keeps its guarantee under continuous looking, so `decide` may be asked at any moment and as often as
one likes. Thresholds are on log e-values: by Ville's inequality a process that starts at 1 and is a supermartingale
under its null ever exceeds 1/a with probability at most a.
"""

import math
from collections.abc import Collection, Mapping, Sequence

import msgspec

from experiments import allocation
from experiments.closure import closed_means
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
    """Give the challengers the next share of the ramp, or the shares that the evidence leads to."""

    split: dict[str, float]
    reason: str


class Drop(msgspec.Struct, frozen=True, tag=True):
    """Take a harmful challenger of several off traffic; its share goes to the champion, the others go on."""

    challenger: str
    split: dict[str, float]
    reason: str


class Fill(msgspec.Struct, frozen=True, tag=True):
    """The planned number of units has entered: new traffic goes to the champion until the verdict."""

    reason: str


Ruling = Keep | Conclude | Drop | Step | Fill


def promotion_threshold(experiment: Experiment) -> float:
    """The log e-value that suffices for a challenger by itself: ln(K/α_t) among K challengers."""
    level = experiment.settings.alpha if experiment.level is None else experiment.level
    return math.log(len(experiment.challengers) / level)


def harm_threshold(experiment: Experiment) -> float:
    """ln(GK/α) for G metrics and K challengers: the union over whatever may be harmed."""
    return math.log(len(experiment.compared) * len(experiment.challengers) / HARM)


def latch(evidence: Evidence, experiment: Experiment) -> Evidence:
    """Evidence in which every process that has just reached its threshold keeps the value it reached it with."""
    latched = tuple(_latch(comparison, experiment) for comparison in evidence.comparisons)
    claimed = _claimed(experiment, latched)
    return msgspec.structs.replace(
        evidence, comparisons=tuple(_hold(c) if (c.challenger, c.metric) in claimed else c for c in latched)
    )


def _claimed(experiment: Experiment, comparisons: Sequence[Comparison]) -> set[tuple[str, str]]:
    """The comparisons of every challenger that is better by closed testing among them all, beside e-Bonferroni.

    A promotion that makes two claims is as sure as the less sure of them: the least of e-values is one against "this or
    that is false", whichever it is.
    """
    whole = [
        min(_log_e(c) for c in comparisons if c.challenger == challenger and c.metric in experiment.objectives)
        for challenger in experiment.challengers
    ]
    needed = promotion_threshold(experiment) - math.log(len(experiment.challengers))
    return {
        (challenger, metric)
        for challenger, log_e in zip(experiment.challengers, closed_means(whole), strict=True)
        for metric in experiment.objectives
        if log_e >= needed
    }


def _log_e(comparison: Comparison) -> float:
    """A process that has no number yet still has the capital it began with."""
    return comparison.log_e_better or 0.0


def _hold(comparison: Comparison) -> Comparison:
    latches = msgspec.structs.replace(comparison.latches, better=_log_e(comparison))
    return msgspec.structs.replace(comparison, latches=latches)


def _latch(comparison: Comparison, experiment: Experiment) -> Comparison:
    claimed = comparison.metric in experiment.objectives
    better = promotion_threshold(experiment) if claimed else math.log(1 / GUARDRAIL)
    return msgspec.structs.replace(
        comparison,
        peak=max(comparison.peak, comparison.log_e_better or 0.0),
        latches=Latches(
            # A closed test may have latched below what suffices by itself: what was claimed stays claimed.
            better=comparison.latches.better or _reached(comparison.log_e_better, better),
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
        or _drop(experiment, evidence, split)
        or _promote(experiment, evidence, now)
        or _futile(experiment, evidence)
        or _inconclusive(experiment, evidence, now)
        or fill(experiment, evidence)
        or _move(experiment, evidence, split)
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
    if remaining(experiment, evidence):
        return None
    worst = max(evidence.comparisons, key=lambda c: c.latches.harm or 0.0)
    return Conclude("rollback", _harm(experiment, worst), worst.challenger)


def remaining(experiment: Experiment, evidence: Evidence) -> tuple[str, ...]:
    """The challengers that have not proved harmful."""
    harmful = {c.challenger for c in evidence.comparisons if c.latches.harm is not None}
    return tuple(challenger for challenger in experiment.challengers if challenger not in harmful)


def _harm(experiment: Experiment, worst: Comparison) -> str:
    margin = "" if worst.metric == experiment.aim else " by more than its margin"
    return f"{worst.challenger!r} is worse on {worst.metric!r}{margin} (e-value {_e(worst.latches.harm)})."


def _drop(experiment: Experiment, evidence: Evidence, split: Mapping[str, float]) -> Drop | None:
    harmed = [c for c in evidence.comparisons if c.latches.harm is not None and split.get(c.challenger)]
    if not harmed:
        return None
    worst = max(harmed, key=lambda c: c.latches.harm or 0.0)
    kept = {arm: share for arm, share in split.items() if arm not in (worst.challenger, experiment.champion)}
    shares = {experiment.champion: 1.0 - math.fsum(kept.values()), **kept, worst.challenger: 0.0}
    return Drop(worst.challenger, shares, f"{_harm(experiment, worst)} It is taken off traffic.")


def _promote(experiment: Experiment, evidence: Evidence, now: int) -> Conclude | None:
    if experiment.aa or not _mature(experiment, evidence):
        return None
    if experiment.started_at is None or now < experiment.started_at + experiment.settings.min_duration:
        return None
    winners = [
        challenger
        for challenger in remaining(experiment, evidence)
        if all(c.latches.better is not None for c in evidence.comparisons if c.challenger == challenger)
    ]
    if not winners:
        return None
    best = max(
        (_of_aim(experiment, evidence, challenger) for challenger in winners), key=lambda c: c.latches.better or 0
    )
    others = [name for name in experiment.compared if name != best.metric]
    guarded = f" and no worse on {', '.join(others)}" if others else ""
    return Conclude(
        "promote",
        f"{best.challenger!r} is better on {best.metric!r} (e-value {_e(best.latches.better)}, "
        f"needed {_needed(experiment)}){guarded}.",
        best.challenger,
    )


def _needed(experiment: Experiment) -> str:
    """The e-value that promotes, in words: among several challengers, there are two ways."""
    alone, several = promotion_threshold(experiment), len(experiment.challengers)
    if several == 1:
        return _e(alone)
    return f"{_e(alone)}, or {_e(alone - math.log(several))} on average among the challengers"


def _futile(experiment: Experiment, evidence: Evidence) -> Conclude | None:
    aims = [_of_aim(experiment, evidence, challenger) for challenger in remaining(experiment, evidence)]
    if not _mature(experiment, evidence) or any(c.latches.futile is None or c.latches.better is not None for c in aims):
        return None
    return Conclude(
        "futile",
        f"No challenger is better on {experiment.aim!r} by the minimum effect of {experiment.settings.min_effect:g} "
        f"(e-value {_e(min(c.latches.futile or 0.0 for c in aims))}, needed {_e(math.log(1 / FUTILITY))}).",
    )


def _inconclusive(experiment: Experiment, evidence: Evidence, now: int) -> Conclude | None:
    settings = experiment.settings
    folded = evidence.matured(experiment.arms)
    if folded >= settings.max_units:
        ended = f"All {settings.max_units} planned units have matured without a verdict."
    elif experiment.started_at is not None and now >= experiment.started_at + settings.max_duration:
        ended = f"The longest duration has passed; {folded} units matured without a verdict."
    else:
        return None
    needed = forecast(experiment, evidence)
    more = f" At this pace it would have taken some {needed[0]} to {needed[1]} more." if needed else ""
    return Conclude("inconclusive", ended + more)


def forecast(experiment: Experiment, evidence: Evidence) -> tuple[int, int] | None:
    """Units until the aim's nearer boundary at its present rate of growth, a factor 3 either way; None without growth.

    The growth of log capital per unit is read off the path so far; measured against simulated experiments, such a
    forecast errs by a median factor of 2.2 to 3.5, so only a range is told.
    """
    units = evidence.matured(experiment.arms)
    needs = [
        units * (threshold - log_e) / log_e
        for comparison in evidence.comparisons
        if comparison.metric == experiment.aim
        for log_e, threshold in (
            (comparison.log_e_better or 0.0, promotion_threshold(experiment)),
            (comparison.log_e_futile or 0.0, math.log(1 / FUTILITY)),
        )
        if log_e > 0
    ]
    if not units or not needs:
        return None
    nearest = max(0.0, min(needs))
    return int(nearest / 3), math.ceil(nearest * 3)


def fill(experiment: Experiment, evidence: Evidence) -> Fill | None:
    """What holds beside any ruling that leaves the experiment running, such as a promotion only recommended."""
    entered = sum(evidence.entered.values())
    if entered < experiment.settings.max_units:
        return None
    return Fill(f"{entered} units have entered, {experiment.settings.max_units} were planned.")


def _move(experiment: Experiment, evidence: Evidence, split: Mapping[str, float]) -> Step | None:
    """Another split, once enough of the challengers has matured in the present one."""
    if evidence.matured(experiment.challengers) - evidence.stepped_at < experiment.settings.ramp_units:
        return None
    climb = _adapt if experiment.settings.allocation == "adaptive" else _step
    return climb(experiment, evidence, split)


def _step(experiment: Experiment, evidence: Evidence, split: Mapping[str, float]) -> Step | None:
    # All have one share, but for those taken off traffic: as if they were there still, the ramp goes on where it was.
    present = len(experiment.challengers) * max(split.get(challenger, 0.0) for challenger in experiment.challengers)
    share = next((step for step in experiment.settings.ramp if step > present + 1e-9), None)
    if share is None:
        return None
    caution, on_trial = math.log(RAMP_CAUTION * len(experiment.compared)), remaining(experiment, evidence)
    if any((c.process.log_e_harm() or 0.0) > caution for c in evidence.comparisons if c.challenger in on_trial):
        return None
    return Step(ramp_split(experiment, share, on_trial), f"The challengers' share rises from {present:g} to {share:g}.")


def _adapt(experiment: Experiment, evidence: Evidence, split: Mapping[str, float]) -> Step | None:
    """The split that the evidence leads to from the opening one, once every arm has what a verdict needs of it."""
    if not _mature(experiment, evidence):
        return None
    on_trial = remaining(experiment, evidence)
    kept = {arm: share for arm, share in experiment.split.items() if arm == experiment.champion or arm in on_trial}
    odds = {challenger: _log_odds(experiment, evidence, challenger) for challenger in on_trial}
    shares = {**dict.fromkeys(experiment.arms, 0.0), **allocation.shares(kept, odds)}
    if not allocation.moved(split, shares):
        return None
    told = ", ".join(f"{arm} {share:.0%}" for arm, share in shares.items())
    return Step(shares, f"By the evidence so far the split becomes {told}.")


def _log_odds(experiment: Experiment, evidence: Evidence, challenger: str) -> float:
    """How the evidence stands: of being better on the aim, over that of the worst harm."""
    mine = [c for c in evidence.comparisons if c.challenger == challenger]
    better = next(c.process.log_e_better() or 0.0 for c in mine if c.metric == experiment.aim)
    return better - max(c.process.log_e_harm() or 0.0 for c in mine)


def ramp_split(experiment: Experiment, share: float, among: Collection[str] | None = None) -> dict[str, float]:
    """The split in which the challengers share `share` evenly, and the champion has the rest.

    The parts of those that are not `among` the present ones go to the champion too.
    """
    each = share / len(experiment.challengers)
    challengers = {name: each if among is None or name in among else 0.0 for name in experiment.challengers}
    return {experiment.champion: 1.0 - math.fsum(challengers.values()), **challengers}


def _mature(experiment: Experiment, evidence: Evidence) -> bool:
    """Whether every arm still on trial has the least number of matured units a verdict about it may rest on."""
    return _least(experiment, evidence) >= experiment.settings.min_units


def _least(experiment: Experiment, evidence: Evidence) -> int:
    arms = (experiment.champion, *remaining(experiment, evidence))
    return min(_with_outcome(evidence, experiment, arm) for arm in arms)


def _with_outcome(evidence: Evidence, experiment: Experiment, arm: str) -> int:
    return evidence.tallies[arm].sums.get(experiment.goal, (0, 0.0))[0]


def _missing(experiment: Experiment, evidence: Evidence) -> str:
    """In one sentence, what an automatic verdict still waits for."""
    least, present = _least(experiment, evidence), remaining(experiment, evidence)
    if least < experiment.settings.min_units:
        needed = experiment.settings.min_units
        return f"Every arm needs {needed} units with a {experiment.goal!r} outcome; the least has {least}."
    waiting = [
        f"{c.metric} of {c.challenger!r}"
        for c in evidence.comparisons
        if c.latches.better is None and c.challenger in present
    ]
    if waiting:
        return f"Not enough evidence yet on {', '.join(waiting)}."
    return "The evidence is there; the shortest duration has not passed yet."


def _of_aim(experiment: Experiment, evidence: Evidence, challenger: str) -> Comparison:
    return next(c for c in evidence.comparisons if c.challenger == challenger and c.metric == experiment.aim)


def _e(log_e: float | None) -> str:
    """An e-value as a person reads it."""
    value = log_e or 0.0
    return f"{math.exp(value):.3g}" if value < 300 else f"1e{value / math.log(10):.0f}"
