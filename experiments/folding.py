"""From facts to evidence: blocks of assignment time, folded strictly in order.

A block is a fixed period of assignment time. It is folded once every unit that entered in it is *complete*: all its
outcomes are in, or its outcome window has passed. What a block contributes is cut at the moment it was closed, and that
moment is recorded, so a replay meets the same numbers, bit for bit. The order of the evidence never depends on when
anybody looked; nor does its content where one source reports. Where several do, a more trusted word that comes after a
block was closed no longer counts, in either arm alike.

Each unit enters once. Under `randomize: unit` it counts with the mean over its first five predictions in the arm it
entered (a *closed unit*), which keeps the unit of analysis the unit of randomisation however often a user comes back.

By pairs, a request is a unit in either arm: both enter in one block, and only both count, or none.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from experiments import betting, pairs, ratio, validity
from experiments.betting import Betting
from experiments.experiment import Experiment
from experiments.facts import Entrant, Exposure
from experiments.metrics import IMPLICIT, Metric
from experiments.pairs import Pairs
from experiments.ratio import Ratio
from experiments.validity import Balance

PREDICTIONS_PER_UNIT = 5

Splits = Mapping[int, Mapping[str, float]]
"""The share of every arm, by epoch: the log of what the split was, never today's configuration."""


class Latches(msgspec.Struct, frozen=True):
    """The log e-values at which a comparison's processes first reached their threshold, None before.

    A process may stop betting at its own first crossing: a stopped supermartingale keeps its value, so the goal and the
    guardrails need not be convincing at the same moment.
    """

    better: float | None = None
    harm: float | None = None
    futile: float | None = None


class Comparison(msgspec.Struct, frozen=True):
    """One challenger against the champion on one metric; `peak` is the greatest log e-value of `better` so far."""

    challenger: str
    metric: str
    process: Betting | Ratio | Pairs
    latches: Latches = Latches()
    peak: float = 0.0

    @property
    def log_e_better(self) -> float | None:
        """Evidence that the challenger is better (where it need not be: not worse by the margin)."""
        return self.process.log_e_better() if self.latches.better is None else self.latches.better

    @property
    def log_e_harm(self) -> float | None:
        """Evidence that the challenger is worse (where it may be: worse by more than the margin)."""
        return self.process.log_e_harm() if self.latches.harm is None else self.latches.harm

    @property
    def log_e_futile(self) -> float | None:
        """Evidence that the challenger is not better by the minimum detectable effect; None where it need not be."""
        return self.process.log_e_futile() if self.latches.futile is None else self.latches.futile


class Tally(msgspec.Struct, frozen=True):
    """What one arm has contributed: units folded, and per metric the number of units and the sum of their means."""

    units: int = 0
    sums: dict[str, tuple[int, float]] = {}


class Evidence(msgspec.Struct, frozen=True):
    """Everything an experiment's decision rests on. Its size does not grow with the number of predictions.

    `blocks` counts the blocks folded (empty ones included), `registered` the blocks whose units have been counted in
    `balance`, the sample-ratio check; `arrival` is the same check over the units whose goal outcome arrived.
    `stepped_at` is how many units of the challengers had matured when the ramp's present step began.
    """

    blocks: int
    registered: int
    tallies: dict[str, Tally]
    comparisons: tuple[Comparison, ...]
    balance: Balance
    arrival: Balance
    stepped_at: int = 0

    @property
    def entered(self) -> dict[str, int]:
        """Units counted at their first exposure, per arm."""
        return self.balance.totals()

    def matured(self, arms: Iterable[str]) -> int:
        """Units of these arms that have been folded."""
        return sum(self.tallies[arm].units for arm in arms)


def begin(experiment: Experiment) -> Evidence:
    """The evidence of an experiment that has seen nothing."""
    return Evidence(
        blocks=0,
        registered=0,
        tallies={arm: Tally() for arm in experiment.arms},
        comparisons=tuple(
            Comparison(challenger, metric, _process(experiment, metric))
            for challenger in experiment.challengers
            for metric in experiment.compared
        ),
        balance=validity.begin(experiment.arms),
        arrival=validity.begin(experiment.arms),
    )


def _process(experiment: Experiment, name: str) -> Betting | Ratio | Pairs:
    metric = experiment.metrics[name]
    aim = name == experiment.aim
    margin = 0.0 if aim else metric.allowance
    if not metric.bounded:
        return ratio.begin(
            margin=margin,
            min_effect=experiment.settings.min_effect if aim else None,
            lower_is_better=metric.lower_is_better,
        )
    low, high = metric.bounds
    score_margin, effect = margin / (high - low), experiment.settings.min_effect / (high - low) if aim else None
    if experiment.settings.pairs:
        return pairs.begin(margin=score_margin, min_effect=effect)
    return betting.begin(margin=score_margin, min_effect=effect, names=experiment.settings.covariates)


def block_of(experiment: Experiment, at: int) -> int:
    """The number of the block of assignment time that holds `at` (µs), counted from 0 at the experiment's start."""
    return (at - _started(experiment)) // experiment.settings.block


def block_span(experiment: Experiment, number: int) -> tuple[int, int]:
    """Start and end (exclusive) of a block, in µs."""
    start = _started(experiment) + number * experiment.settings.block
    return start, start + experiment.settings.block


def complete(experiment: Experiment, units: Iterable[Entrant], horizon: int) -> bool:
    """Whether these units have all that they wait for; a source more trusted than one that spoke is not waited for.

    `horizon` (µs) is the time up to which every prediction and outcome is known to be stored.
    """
    return all(_unit_complete(experiment, unit, horizon) for unit in units)


def _unit_complete(experiment: Experiment, unit: Entrant, horizon: int) -> bool:
    if horizon >= unit.entered_at + experiment.settings.outcome_window:
        return True
    counted = _counted(experiment, unit, horizon)
    return len(counted) == _enough(experiment) and all(
        name in _values(experiment, unit, exposure, horizon) for exposure in counted for name in _reported(experiment)
    )


def _reported(experiment: Experiment) -> list[str]:
    """The metrics that somebody has to report."""
    return [name for name, metric in experiment.metrics.items() if metric.kind not in IMPLICIT]


def _enough(experiment: Experiment) -> int:
    return 1 if experiment.settings.randomize == "request" else PREDICTIONS_PER_UNIT


def _counted(experiment: Experiment, unit: Entrant, cut: int) -> tuple[Exposure, ...]:
    """The predictions that count for a unit: its first in assignment order, made within its window and before `cut`.

    Order of assignment, not of arrival: taking the outcomes that come first would favour the arm whose failures (or
    successes) are reported faster.
    """
    end = min(cut, unit.entered_at + experiment.settings.outcome_window)
    return tuple(exposure for exposure in unit.exposures if exposure.created_at < end)[: _enough(experiment)]


def _values(experiment: Experiment, unit: Entrant, exposure: Exposure, cut: int) -> dict[str, float]:
    """The reported value of each metric, from its most trusted source, of what was received in time."""
    end = min(cut, unit.entered_at + experiment.settings.outcome_window)
    values: dict[str, float] = {}
    for name, metric in experiment.metrics.items():
        heard = {source: value for m, source, value, received in exposure.outcomes if m == name and received < end}
        if first := next((source for source in metric.sources if source in heard), None):
            values[name] = heard[first]
    return values


def unit_value(experiment: Experiment, name: str, unit: Entrant, cut: int) -> float | None:
    """A unit's mean value of one metric, in the metric's own unit; None when it has none to contribute."""
    metric = experiment.metrics[name]
    observed = [
        value
        for exposure in _counted(experiment, unit, cut)
        if (value := observe(metric, exposure, _values(experiment, unit, exposure, cut).get(name))) is not None
    ]
    return sum(observed) / len(observed) if observed else None


def observe(metric: Metric, exposure: Exposure, reported: float | None) -> float | None:
    """The value of one prediction: failures count as the worst value, missing outcomes as the metric says."""
    if metric.kind == "error":
        return float(exposure.failed)
    if metric.kind in ("latency", "cost", "tokens"):
        spent: int | None = getattr(exposure, metric.kind)
        if spent is None or metric.threshold is None:
            return None if spent is None else float(spent)
        return float(spent > metric.threshold)
    if not metric.bounded:
        return None if exposure.failed else reported
    worst = metric.bounds[1] if metric.lower_is_better else metric.bounds[0]
    if metric.expected == "all":
        return worst if exposure.failed or reported is None else reported
    return worst if exposure.failed and reported is not None else reported


def register(evidence: Evidence, counts: Mapping[int, Mapping[str, int]], splits: Splits, upto: int) -> Evidence:
    """Count units at their first exposure (epoch to arm to number) in blocks before `upto`, for the sample ratio."""
    balance = evidence.balance
    for epoch in sorted(counts):
        balance = balance.fold(counts[epoch], splits[epoch])
    return msgspec.structs.replace(evidence, balance=balance, registered=upto)


def fold(
    evidence: Evidence, experiment: Experiment, splits: Splits, number: int, units: Sequence[Entrant], cut: int
) -> Evidence:
    """The evidence after block `number`, closed at `cut`; blocks skipped in between were empty.

    Raises: ValueError when the block is not the next one, which would break the order the guarantee rests on.
    """
    if number < evidence.blocks:
        raise ValueError(f"block {number} was folded already; the next is {evidence.blocks}")
    if experiment.settings.pairs:
        units = _paired(experiment, units, cut)
    values = {name: [unit_value(experiment, name, unit, cut) for unit in units] for name in experiment.compared}
    arrived = [unit for unit, value in zip(units, values[experiment.goal], strict=True) if value is not None]
    arrival = evidence.arrival
    for epoch, counts in _count(arrived).items():
        arrival = arrival.fold(counts, splits[epoch])
    return msgspec.structs.replace(
        evidence,
        blocks=number + 1,
        tallies={arm: _add(tally, arm, units, values) for arm, tally in evidence.tallies.items()},
        comparisons=tuple(
            msgspec.structs.replace(c, process=_fold_one(c, experiment, splits, units, values[c.metric]))
            for c in evidence.comparisons
        ),
        arrival=arrival,
    )


def _count(units: Iterable[Entrant]) -> dict[int, Counter[str]]:
    counts: dict[int, Counter[str]] = {}
    for unit in units:
        counts.setdefault(unit.epoch, Counter())[unit.arm] += 1
    return dict(sorted(counts.items()))


def _add(tally: Tally, arm: str, units: Sequence[Entrant], values: Mapping[str, Sequence[float | None]]) -> Tally:
    sums = dict(tally.sums)
    for name, column in values.items():
        mine = [v for unit, v in zip(units, column, strict=True) if unit.arm == arm and v is not None]
        n, total = sums.get(name, (0, 0.0))
        sums[name] = (n + len(mine), total + sum(sorted(mine)))
    return Tally(tally.units + sum(unit.arm == arm for unit in units), sums)


def _fold_one(
    comparison: Comparison,
    experiment: Experiment,
    splits: Splits,
    units: Sequence[Entrant],
    values: Sequence[float | None],
) -> Betting | Ratio | Pairs:
    """Fold the units of the two arms compared; with other arms left out, the coin is the one between these two."""
    metric = experiment.metrics[comparison.metric]
    if isinstance(comparison.process, Pairs):
        return _fold_pairs(comparison.process, experiment, metric, units, values)
    pair = (experiment.champion, comparison.challenger)
    rows = [
        (u, v)
        for u, v in zip(units, values, strict=True)
        if v is not None and u.arm in pair and splits[u.epoch].get(comparison.challenger)  # still on traffic
    ]
    if not rows:
        return comparison.process
    shares = [(splits[u.epoch].get(pair[0], 0.0), splits[u.epoch][pair[1]]) for u, _ in rows]
    w = np.array([u.arm == comparison.challenger for u, _ in rows])
    pi = np.array([challenger / (champion + challenger) for champion, challenger in shares])
    if isinstance(comparison.process, Ratio):
        return comparison.process.fold(w, np.array([v for _, v in rows]), pi)
    scores = np.array([metric.score(v) for _, v in rows])
    return comparison.process.fold(w, scores, pi, [u.covariates for u, _ in rows])


def _paired(experiment: Experiment, units: Sequence[Entrant], cut: int) -> list[Entrant]:
    """The requests with both answers, and the same metrics reported of both: one that got lost takes the other along.

    An answer is lost, or its score, when a process dies or is out of room: before anybody could tell how good it was.
    """
    heard: dict[str, list[set[str]]] = {}
    for unit in units:
        reported = {name for exposure in unit.exposures for name in _values(experiment, unit, exposure, cut)}
        heard.setdefault(unit.unit_hash, []).append(reported)
    whole = {request for request, said in heard.items() if len(said) == 2 and said[0] == said[1]}
    return [unit for unit in units if unit.unit_hash in whole]


def _fold_pairs(
    process: Pairs, experiment: Experiment, metric: Metric, units: Sequence[Entrant], values: Sequence[float | None]
) -> Pairs:
    """Fold the requests on which both answers have a score."""
    scores: tuple[dict[str, float], dict[str, float]] = {}, {}
    for unit, value in zip(units, values, strict=True):
        if value is not None:
            scores[unit.arm != experiment.champion][unit.unit_hash] = metric.score(value)
    both = sorted(scores[0].keys() & scores[1].keys())
    return process.fold([scores[0][one] for one in both], [scores[1][one] for one in both]) if both else process


def coins(experiment: Experiment, splits: Splits) -> Splits:
    """What the arms' units are in proportion to: the splits, and by pairs one to one, whatever share was drawn."""
    if not experiment.settings.pairs:
        return splits
    return {epoch: dict.fromkeys(split, 1 / len(split)) for epoch, split in splits.items()}


def _started(experiment: Experiment) -> int:
    if experiment.started_at is None:
        raise ValueError("the experiment has not been started")
    return experiment.started_at
