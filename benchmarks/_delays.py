"""How soon a fall is found: near the optimum, after promotions, after long uptime, of one arm or all, in any scale."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks import _alarms as alarms
from benchmarks import _drifts as drifts
from benchmarks._drifts import SHIPPED, Streams, mean_delay, per_100k
from benchmarks._goals import Goal, Row, Size, seeded
from monitoring import drift, ranks
from monitoring.design import Design
from monitoring.ranks import Reference

OPTIMA = {0.95: (312, 108, 38), 0.85: (636, 207, 67), 0.70: (925, 296, 92)}
"""Worst-case mean delays of the CUSUM that knows score and drop, for drops of .05, .10 and .20, with 100,000 outcomes
between false alarms: the least there can be (Moustakides 1986), by the Markov chain of Brook & Evans 1972."""
DROPS = (0.05, 0.10, 0.20)


def optimum(size: Size) -> Iterator[Row]:
    """Every outcome bet on, the score known: mean delay over that of the optimum; river as it comes, same streams."""
    runs, before, horizon = size.runs(1000), 2000, 6000
    ratios: dict[str, float] = {}
    others: dict[str, dict[str, float]] = {}
    for p, optima in OPTIMA.items():
        design = Design(run_length=1e5, block=1, known=p)
        for drop, least in zip(DROPS, optima, strict=True):
            streams = drifts.falling(seeded(f"optimum {p} {drop}"), p, drop, before, horizon, runs)
            found = drifts.noticed(design, streams)
            ratios[f"{p:.2f} -{drop:.2f}"] = mean_delay([each.at for each in found], before, horizon)[0] / least
            few = max(10, runs // 25)
            for peer, told in drifts.river(1 - streams[:few], before).items():
                ratio = mean_delay(told["first"], before, horizon)[0] / least
                others.setdefault(peer, {})[f"{p:.2f} -{drop:.2f}"] = ratio
    spread = {peer: f"{min(found.values()):.1f} to {max(found.values()):.1f}" for peer, found in others.items()}
    yield Row(
        Goal("2 mean delay over the optimum's, worst of nine settings", "<= 1.2"),
        max(ratios.values()),
        spread,
        {"ours": ratios, **others},
        runs,
    )


def uptime(size: Size) -> Iterator[Row]:
    """The shipped detector, .85 to .75, by calm outcomes since the promotion; its prior is 1,000 (300) before those."""
    means, horizon = {}, 10_000
    bounds = {300: "<= 900", 1000: "<= 450", 5000: "<= 420", 50_000: "<= 400"}
    errors: list[int] = []
    for before, bound in bounds.items():
        runs = size.runs(150 if before > 5000 else 600)
        rng, known = seeded(f"uptime {before}"), min(before, 1000)
        streams = drifts.falling(rng, 0.85, 0.10, before, horizon, runs)
        priors = [(known, float(s)) for s in rng.binomial(known, 0.85, runs)]
        found = drifts.noticed(SHIPPED, streams, priors)
        means[before], missed = mean_delay([each.at for each in found], before, horizon)
        told = drifts.river(1 - streams[: max(10, runs // 10)], before)
        others = {peer: mean_delay(each["first"], before, horizon) for peer, each in told.items()}
        goal = f"4 mean delay of .85 to .75 after {before:,} calm outcomes"
        yield Row(Goal(goal, bound), means[before], {peer: mean for peer, (mean, _) in others.items()}, runs=runs)
        if before == 300:
            lost = {peer: miss for peer, (_, miss) in others.items()}
            yield Row(Goal("4 the same: share not found within 10k", "<= 0.03"), missed, lost, runs=runs)
        if before == 5000:
            errors = [abs(each.change_point - before) for each in found if each.at and each.change_point]
    ratio = means[50_000] / means[5000]
    yield Row(Goal("4 mean delay after 50,000 over after 5,000", "<= 1.1"), ratio)
    yield Row(
        Goal("9 change point: median outcomes off, .85 to .75", "<= 60"), float(np.median(errors)), runs=len(errors)
    )


def several_arms(size: Size) -> Iterator[Row]:
    """Five arms that are known exactly, half of the traffic on the champion: the first alarm after a fall."""
    runs, before, horizon = size.runs(300), 1000, 10_000
    worlds = {
        "all -.10": ({name: p - 0.1 for name, p in alarms.SCORES.items()}, "<= 250"),
        "the champion -.10": ({"base": alarms.SCORES["base"] - 0.1}, "<= 430"),
        "one with a tenth of traffic -.20": ({"d": alarms.SCORES["d"] - 0.2}, "<= 1000"),
    }
    for name, (fallen, bound) in worlds.items():
        found = drifts.every(partial(_fall, name, fallen, before, horizon), range(runs))
        goal = Goal(f"6 mean delay, five arms: {name}", bound)
        yield Row(goal, mean_delay(found, before, horizon)[0], runs=runs)


def _fall(name: str, fallen: dict[str, float], before: int, horizon: int, run: int) -> int | None:
    rng = seeded(f"{name} {run}")
    calm = alarms.arms(rng, alarms.SHARES, alarms.SCORES, before)
    later = alarms.arms(rng, alarms.SHARES, alarms.SCORES | fallen, horizon)
    outcomes = calm + [(arm, at + before, y) for arm, at, y in later]
    return drifts.first_alarm(alarms.EXACT, outcomes, alarms.KNOWN).at


def scores(size: Size) -> Iterator[Row]:
    """Beta scores of mean .80 and standard deviation .10 fall by .05; a CUSUM that knows all that stands beside."""
    runs, before, horizon, rng = size.runs(600), 500, 3000, seeded("scores")
    streams = np.hstack([rng.beta(12, 3, (runs, before)), rng.beta(13.3125, 4.4375, (runs, horizon))])
    found = drifts.noticed(Design(run_length=1e5, block=1, known=0.8), streams)
    ours, _ = mean_delay([each.at for each in found], before, horizon)
    oracle, _ = mean_delay(_gaussian_cusum(streams, _calibrated(rng)), before, horizon)
    yield Row(
        Goal("8 scores: mean delay over that of the calibrated Gaussian CUSUM", "<= 1.15"),
        ours / oracle,
        detail={"ours": ours, "Gaussian CUSUM": oracle},
        runs=runs,
    )


def _calibrated(rng: np.random.Generator) -> float:
    """The threshold at which that CUSUM alarms once in 100,000 outcomes, by simulation on scores that do not fall."""
    thresholds = np.linspace(6, 14, 33)[:, None]
    level, raised = np.zeros((len(thresholds), 400)), np.zeros(len(thresholds))
    for _ in range(10_000):
        level = _cusum(level, rng.beta(12, 3, 400))
        over = level >= thresholds
        raised += over.sum(axis=1)
        level[over] = 0
    return float(np.interp(-40, -raised, thresholds[:, 0]))


def _gaussian_cusum(streams: Streams, threshold: float) -> list[int]:
    """Where it first alarms in every stream; it is told the score, its scatter and the drop."""
    level, first = np.zeros(len(streams)), np.full(len(streams), -1)
    for at, y in enumerate(streams.T):
        level = _cusum(level, y)
        first[(first < 0) & (level >= threshold)] = at
    return [int(at) for at in first]


def _cusum(level: Streams, y: Streams) -> Streams:
    mean, drop, deviation = 0.8, 0.05, 0.1
    return np.maximum(0, level + (mean - drop / 2 - y) * drop / deviation**2)


def costs(size: Size) -> Iterator[Row]:
    """Lognormal costs around a fifth of a cent, one in a hundred requests retried at twenty times the cost."""
    runs, before, horizon = size.runs(200), 1000, 3000
    rank = ranks.rank_design(SHIPPED, 0.02)
    rises = {times: drifts.every(partial(_dearer, times, before, horizon), range(runs)) for times in (1.25, 1.5, 2.0)}
    means = {
        f"x{times}": mean_delay([level for level, _ in found], before, horizon)[0] for times, found in rises.items()
    }
    rng = seeded("costs river")
    dollars = np.hstack([_dollars(rng, (20, before)), 1.5 * _dollars(rng, (20, horizon))])
    others = {
        f"{peer} on dollars": _told(told["first"])
        for peer, told in drifts.river(dollars, before, ["ADWIN", "Page-Hinkley"]).items()
    }
    yield Row(Goal("8 costs half as high again: mean delay", "<= 150"), means["x1.5"], others, means, runs)
    tails = drifts.every(partial(_heavier, before, 6000), range(runs // 4))
    mean, missed = mean_delay(tails, before, 6000)
    calm = size.runs(40)
    counts = drifts.every(partial(_calm, rank), range(calm))
    rate = per_100k([level for level, _ in counts], 50_000)
    detail = {"tail, per 100k": per_100k([tail for _, tail in counts], 50_000)}
    yield Row(Goal("8 costs: false alarms per 100k", "<= 0.3"), rate, detail=detail, runs=calm)
    detail = {"retries 1 % to 4 %, found by the tail: mean delay": mean, "missed": missed}
    yield Row(Goal("8 costs: scores that differ between dollars and cents", "<= 0"), float(_rescaled()), detail=detail)


def _told(first: list[int]) -> str:
    found = sum(at >= 0 for at in first)
    return "never fires" if not found else f"fires in {found} of {len(first)}"


def _dollars(rng: np.random.Generator, shape: tuple[int, int], retried: float = 0.01) -> Streams:
    return np.asarray(0.002 * rng.lognormal(0, 0.8, shape) * np.where(rng.random(shape) < retried, 20, 1))


def _picodollars(rng: np.random.Generator, n: int, retried: float = 0.01, times: float = 1.0) -> list[int]:
    return [int(value) for value in np.rint(1e12 * times * _dollars(rng, (1, n), retried)[0])]


def _filled(rng: np.random.Generator) -> Reference:
    return Reference().filled(_picodollars(rng, ranks.REFERENCE))


def _dearer(times: float, before: int, horizon: int, run: int) -> tuple[int | None, None]:
    rng = seeded(f"dearer {times} {run}")
    reference, design = _filled(rng), ranks.rank_design(SHIPPED, 0.02)
    values = _picodollars(rng, before) + _picodollars(rng, horizon, times=times)
    return drifts.first_alarm(design, [("base", at, reference.score(v)) for at, v in enumerate(values)], {}).at, None


def _heavier(before: int, horizon: int, run: int) -> int | None:
    rng = seeded(f"heavier {run}")
    reference, design = _filled(rng), ranks.tail_design(SHIPPED)
    values = _picodollars(rng, before) + _picodollars(rng, horizon, retried=0.04)
    known = reference.known_by(design).baseline
    outcomes = [("base", at, reference.within(v)) for at, v in enumerate(values)]
    return drifts.first_alarm(design, outcomes, {"base": (known.n, known.s)}).at


def _calm(rank: Design, run: int) -> tuple[int, int]:
    """Alarms by rank and by tail in 50,000 requests that cost what they always did."""
    rng, tail = seeded(f"calm costs {run}"), ranks.tail_design(SHIPPED)
    reference = _filled(rng)
    values = _picodollars(rng, 50_000)
    levels = [("base", at, reference.score(v)) for at, v in enumerate(values)]
    within = [("base", at, reference.within(v)) for at, v in enumerate(values)]
    known = {"base": reference.known_by(tail)}
    return (
        drifts.count(rank, levels, drift.begin(rank, {}), dismissed=True),
        drifts.count(tail, within, drift.Detector(known), dismissed=True),
    )


def _rescaled() -> int:
    rng = seeded("scales")
    cents, later = _picodollars(rng, ranks.REFERENCE), _picodollars(rng, 10_000)
    one, other = Reference().filled(cents), Reference().filled(100 * value for value in cents)
    return sum(one.score(v) != other.score(100 * v) or one.within(v) != other.within(100 * v) for v in later)
