"""False alarms: the promise, and what bursts, seasons, lucky promotions, moving traffic and lagging labels do to it."""

import math
from collections.abc import Iterator
from functools import partial

import msgspec
import numpy as np

from benchmarks import _drifts as drifts
from benchmarks._drifts import SENSITIVE, SHIPPED, Noticed, per_100k
from benchmarks._goals import Goal, Row, Size, seeded
from monitoring import drift
from monitoring.design import CEILING, Design

P = 0.85
BETAS = {"beta .8 sd .1": (12.0, 3.0), "beta .8 sd .2": (2.4, 0.6)}


def promise(size: Size) -> Iterator[Row]:
    """Known null, A = 10,000: the share of streams with an alarm within n outcomes against n/A."""
    for block, runs in ((5, size.runs(1000)), (1, size.runs(300))):
        excess, shares = -math.inf, {}
        for law in (".95", ".85", ".70", *BETAS):
            rng = seeded(f"promise {block} {law}")
            mean = 0.8 if law in BETAS else float(law)
            streams = rng.beta(*BETAS[law], (runs, 10_000)) if law in BETAS else drifts.right(rng, mean, (runs, 10_000))
            design = Design(run_length=1e4, known=mean, block=block)
            found = [each.at for each in drifts.noticed(design, streams)]
            for n in (100, 300, 1000, 3000):
                share, bound = float(np.mean([at is not None and at < n for at in found])), n / 1e4
                excess = max(excess, (share - bound) / math.sqrt(bound * (1 - bound) / runs))
                shares[f"{law}, n={n}"] = share
        name = f"1 promise, blocks of {block}: worst of P(alarm within n) over n/A, in standard errors above it"
        yield Row(Goal(name, "<= 3"), excess, detail=shares, runs=5 * runs)


def worlds(size: Size) -> Iterator[Row]:
    """The shipped detector where nothing is wrong: alarms per 100,000 outcomes, each acknowledged at once."""
    runs, n = size.runs(60), 100_000
    shape = (runs, n + 1000)
    made = {
        "independent": ("<= 0.3", partial(drifts.right, p=P, shape=shape)),
        "bursts, rho .3": ("<= 1", partial(drifts.bursty, p=P, rho=0.3, shape=shape)),
        "season +-.02, day 5000": ("<= 1.5", partial(drifts.seasonal, p=P, swing=0.02, period=5000, shape=shape)),
    }
    for name, (bound, world) in made.items():
        streams = world(seeded(f"world {name}"))
        priors = [(1000, total) for total in streams[:, :1000].sum(axis=1).tolist()]
        rest = streams[:, 1000:]
        few = max(5, runs // 6)
        rates = {
            kind: per_100k(drifts.alarms(design, rest[:some], priors[:some], dismissed=dismissed), n)
            for kind, design, dismissed, some in (
                ("shipped", SHIPPED, False, runs),
                ("dismissed, baseline kept", SHIPPED, True, runs),
                ("sensitive", SENSITIVE, False, few),
            )
        }
        peers = drifts.river(1 - streams[:few])
        others = {peer: per_100k(told["alarms"], n) for peer, told in peers.items()}
        goal = Goal(f"3 false alarms per 100k, {name}", bound)
        yield Row(goal, rates.pop("shipped"), others, rates, runs)


def luckiest(size: Size) -> Iterator[Row]:
    """The best of five equal arms is promoted, by 500 outcomes each; any alarm in 20,000 outcomes."""
    runs, rng = size.runs(400), seeded("luckiest")
    best = rng.binomial(500, P, (runs, 5)).max(axis=1)
    streams = drifts.right(rng, P, (runs, 20_000))
    found = drifts.noticed(SHIPPED, streams, [(500, float(s)) for s in best])
    few = range(runs // 4)
    plugged = [Design(run_length=1e5, block=1, known=min(best[i] / 500, CEILING)) for i in few]
    naive = drifts.every(drifts.notice, plugged, streams[: len(few)], [None] * len(few))
    yield Row(
        Goal("5 false alarm in 20k after promoting the best of five equal arms", "<= 0.12"),
        _share(found),
        {"ours against its plain mean": _share(naive)},
        runs=runs,
    )


def traffic(size: Size) -> Iterator[Row]:
    """Arms of .90 and .70, split 90/10 and then 50/50; and five arms that stay as they are, for long."""
    runs, p = size.runs(300), {"base": 0.9, "new": 0.7}
    priors = {"base": (1000, 900.0), "new": (1000, 700.0)}
    made = [_two_arms(seeded(f"traffic {run}"), p) for run in range(runs)]
    pooled = [[("base", at, y) for _, at, y in each] for each in made]
    rates = {
        kind: _share(drifts.every(partial(drifts.first_alarm, design), made, [priors] * runs))
        for kind, design in (("shipped", SHIPPED), ("sensitive", SENSITIVE))
    }
    together = drifts.every(partial(drifts.first_alarm, SHIPPED), pooled[:60], [{"base": (1000, 880.0)}] * 60)
    errors = 1 - np.array([[y for _, _, y in each] for each in pooled[:20]])
    others = {peer: float(np.mean(np.array(told["alarms"]) > 0)) for peer, told in drifts.river(errors).items()}
    yield Row(
        Goal("6 alarm in 10k when unequal arms go from 90/10 to 50/50", "<= 0.1"),
        rates.pop("shipped"),
        {"ours on pooled arms": _share(together)} | {f"{peer} on pooled arms": rate for peer, rate in others.items()},
        rates,
        runs,
    )
    long = size.runs(40)
    counts = drifts.every(_five_arms, range(long))
    yield Row(Goal("6 false alarms per 100k outcomes of five arms", "<= 1"), per_100k(counts, 100_000), runs=long)


def _two_arms(rng: np.random.Generator, p: dict[str, float]) -> list[drift.Outcome]:
    new = rng.random(10_000) < np.repeat([0.1, 0.5], 5000)
    names = np.where(new, "new", "base").tolist()
    chances = rng.random(10_000).tolist()
    return [(name, at, float(chance < p[name])) for at, (name, chance) in enumerate(zip(names, chances, strict=True))]


def arms(rng: np.random.Generator, shares: dict[str, float], p: dict[str, float], n: int) -> list[drift.Outcome]:
    """Outcomes of several arms at fixed shares."""
    names = rng.choice(list(shares), n, p=list(shares.values())).tolist()
    chances = rng.random(n).tolist()
    return [(name, at, float(chance < p[name])) for at, (name, chance) in enumerate(zip(names, chances, strict=True))]


SHARES = {"base": 0.5, "a": 0.2, "b": 0.1, "c": 0.1, "d": 0.1}
SCORES = {"base": 0.9, "a": 0.85, "b": 0.8, "c": 0.8, "d": 0.8}
"""A champion and four challengers that are not as good."""
EXACT = Design(run_length=1e5, block=1, tolerated=0.0, z=0.0)
KNOWN = {name: (10**6, p * 10**6) for name, p in SCORES.items()}
"""Priors by which such a detector knows every arm's score."""


def _five_arms(seed: int) -> int:
    outcomes = arms(seeded(f"five {seed}"), SHARES, SCORES, 100_000)
    return drifts.count(EXACT, outcomes, drift.begin(EXACT, KNOWN), dismissed=True)


def late_labels(size: Size) -> Iterator[Row]:
    """3 of 10 are labelled, wrong ones after 200 ticks and right ones after 2,000 on average; no drop is tolerated.

    30,000 ticks from a promotion on are watched once as labels arrive and once as predictions mature, at 6,000 ticks.
    """
    runs = size.runs(200)
    design = msgspec.structs.replace(SHIPPED, tolerated=0.0)
    streams: dict[str, list[list[drift.Outcome]]] = {"matured": [], "arrived": []}
    priors = []
    for run in range(runs):
        before, after = (
            _labelled(seeded(f"late {run} {part}"), n) for part, n in (("before", 5000), ("after", 30_000))
        )
        known = [y for _, lag, y in before if lag <= 6000][:1000]
        priors.append({"base": (len(known), math.fsum(known))})
        streams["matured"].append([("base", at, y) for at, lag, y in after if lag <= 6000 and at <= 24_000])
        arrived = sorted((at + lag, y) for at, lag, y in after if at + lag <= 30_000)
        streams["arrived"].append([("base", round(at), y) for at, y in arrived])
    found = {order: drifts.every(partial(drifts.first_alarm, design), made, priors) for order, made in streams.items()}
    width = min(len(stream) for stream in streams["arrived"][:20])
    errors = 1 - np.array([[y for _, _, y in stream[:width]] for stream in streams["arrived"][:20]])
    others = {peer: float(np.mean(np.array(told["alarms"]) > 0)) for peer, told in drifts.river(errors).items()}
    yield Row(
        Goal("7 alarm in 30k ticks where wrong answers are labelled sooner", "<= 0.1"),
        _share(found["matured"]),
        {"ours as labels arrive": _share(found["arrived"])} | {f"{k} as labels arrive": v for k, v in others.items()},
        runs=runs,
    )


def _labelled(rng: np.random.Generator, ticks: int) -> list[tuple[int, float, float]]:
    """(tick, ticks until its label, score) of the predictions that ever get one."""
    at = np.flatnonzero(rng.random(ticks) < 0.3)
    score = drifts.right(rng, P, (1, len(at)))[0]
    lag = rng.exponential(np.where(score > 0, 2000, 200))
    return list(zip(at.tolist(), lag.tolist(), score.tolist(), strict=True))


def _share(found: list[Noticed]) -> float:
    return float(np.mean([each.at is not None for each in found]))
