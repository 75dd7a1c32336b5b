"""The watch over a promotion: a small share stays with the former champion, and proven harm takes the promotion back.

A holdback is weighed like an experiment between the former champion and the promoted variant, on the same metrics, from
evidence of its own: its blocks, units and e-values begin with the promotion. What made the promotion is not used again;
it was chosen for being favourable. With one e-process of harm per metric, their average

    E = (1/G) Σ_g E_g

is one too, whatever the metrics have to do with each other (Vovk & Wang 1912.06116, section 3), and its null is "the
promoted variant is not worse on what it was promoted for, nor by more than its margin on anything else". Hence one
number against one level, at least as sharp as asking each metric for G times the evidence.
"""

import math

import msgspec
import numpy as np
from scipy.special import logsumexp

from experiments.assignment import holdback_id
from experiments.decision import BALANCE, Keep
from experiments.experiment import Experiment, Holdback
from experiments.folding import Evidence

LEVEL = 0.05
"""Probability, over the whole holdback, of taking back a promotion that harms nothing."""


class Revert(msgspec.Struct, frozen=True, tag=True):
    """Take the promotion back: harm is proven."""

    reason: str


class End(msgspec.Struct, frozen=True, tag=True):
    """Give the promoted variant everything. `passed`: as planned; else the data cannot be trusted."""

    passed: bool
    reason: str


Ruling = Keep | Revert | End


def watched(experiment: Experiment) -> Experiment:
    """The holdback in an experiment's terms: the former champion against the promoted variant, since the promotion.

    Raises: ValueError without a holdback.
    """
    holdback = _of(experiment)
    return msgspec.structs.replace(
        experiment,
        experiment_id=holdback_id(experiment.experiment_id, holdback.epoch),
        state="running",
        champion=holdback.former,
        challengers=(holdback.promoted,),
        split=split(experiment, holdback.former, holdback.promoted),
        settings=msgspec.structs.replace(experiment.settings, pairs=False),
        started_at=holdback.since,
    )


def split(experiment: Experiment, former: str, promoted: str) -> dict[str, float]:
    """The shares while the former champion is held back."""
    share = experiment.settings.holdback
    return {promoted: 1.0 - share, former: share}


def began(experiment: Experiment, former: str, promoted: str, epoch: int, since: int) -> Experiment:
    """The experiment with its promotion under watch from routing `epoch` on, at `since` (µs)."""
    holdback = Holdback(former=former, promoted=promoted, epoch=epoch, since=since)
    return msgspec.structs.replace(experiment, holdback=holdback)


def over(experiment: Experiment, *, passed: bool = False, reverted: bool = False, now: int) -> Experiment:
    """The experiment with its holdback at an end; one that ended before stays as it is."""
    holdback = experiment.holdback
    if holdback is None or holdback.state != "running":
        return experiment
    state = "rolled_back" if reverted else "passed" if passed else "ended"
    return msgspec.structs.replace(experiment, holdback=msgspec.structs.replace(holdback, state=state, ended_at=now))


def log_e_harm(evidence: Evidence) -> float:
    """Log evidence that the promoted variant is worse; a metric without a number yet has its starting capital."""
    harms = [comparison.log_e_harm or 0.0 for comparison in evidence.comparisons]
    return float(logsumexp(harms) - np.log(len(harms)))


def latch(evidence: Evidence, _watched: Experiment) -> Evidence:
    """Evidence in which all betting stops once the average reaches its threshold: what is proven stays proven."""
    if log_e_harm(evidence) < math.log(1 / LEVEL):
        return evidence
    return msgspec.structs.replace(
        evidence,
        comparisons=tuple(
            msgspec.structs.replace(c, latches=msgspec.structs.replace(c.latches, harm=c.log_e_harm or 0.0))
            for c in evidence.comparisons
        ),
    )


def decide(experiment: Experiment, evidence: Evidence) -> Ruling:
    """The ruling on a running holdback, from latched evidence."""
    former, promoted = _of(experiment).former, _of(experiment).promoted
    if broken := _untrusted(experiment, evidence):
        return End(passed=False, reason=broken)
    log_e = log_e_harm(evidence)
    if log_e >= math.log(1 / LEVEL):
        worst = max(evidence.comparisons, key=lambda c: c.log_e_harm or 0.0)
        margin = "" if worst.metric == experiment.aim else " by more than its margin"
        return Revert(
            f"After its promotion {promoted!r} is worse than {former!r}, the former champion, on "
            f"{worst.metric!r}{margin} (e-value {math.exp(min(log_e, 300.0)):.3g}, needed {1 / LEVEL:g})."
        )
    matured, planned = evidence.matured((former,)), experiment.settings.holdback_units
    if matured >= planned:
        return End(passed=True, reason=f"{matured} units of {former!r} have matured and show no harm by {promoted!r}.")
    return Keep(f"{matured} of {planned} units of {former!r} have matured.")


def _untrusted(experiment: Experiment, evidence: Evidence) -> str | None:
    """What is wrong with the data, if anything is: harm read off them would prove nothing."""
    threshold = math.log(1 / BALANCE)
    if evidence.balance.log_e() >= threshold:
        return "The holdback's units are out of proportion to its split; its evidence cannot be trusted."
    if experiment.metrics[experiment.goal].expected == "sampled" and evidence.arrival.log_e() >= threshold:
        return f"Outcomes of {experiment.goal!r} arrive unevenly in the holdback; its evidence cannot be trusted."
    return None


def _of(experiment: Experiment) -> Holdback:
    if experiment.holdback is None:
        raise ValueError("the experiment has no holdback")
    return experiment.holdback
