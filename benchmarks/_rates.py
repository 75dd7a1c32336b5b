"""The promised error rates, and what the same worlds do to others. Every function is one row of the goals."""

import math
from collections.abc import Iterator

import numpy as np
from scipy.stats import chi2

from benchmarks import _peers as peers
from benchmarks._goals import Goal, Row, Size, highest, seeded
from benchmarks._worlds import World, binary, closed_units, race, sizes, users
from experiments import betting, validity
from experiments.folding import PREDICTIONS_PER_UNIT
from experiments.strata import Floats
from experiments.validity import LOG_WEIGHTS, TILTS

PROMOTED = {"better": math.log(1 / 0.025)}
EITHER = {"better": math.log(1 / 0.025), "harm": math.log(1 / 0.025)}


def false_promotion(size: Size) -> Row:
    """Equal arms, 20,000 units each, looked at after every unit."""
    runs, few = size.runs(1500), size.runs(200)
    ours, theirs = {}, {}
    for p in (0.05, 0.30, 0.70, 0.95):
        for shares in (0.5, 0.1, "5-50"):
            world, name = binary(p, shares=shares), f"p={p} split={shares}"
            ours[name] = race(seeded(name), world, runs, 40_000, PROMOTED).share("better")
            theirs[name] = peers.rates(seeded(name), world, few, 40_000)
    return Row(
        Goal("false promotion, a look after every unit, 20k per arm", f"<= {highest(0.025, runs)}"),
        max(ours.values()),
        peers={rule: max(cell[rule] for cell in theirs.values()) for rule in peers.RULES},
        detail=ours,
        runs=runs,
    )


def sticky(size: Size) -> Row:
    """Equal arms on sticky users, both sides, at .05: each user once, as the mean of its first predictions."""
    runs, few = size.runs(2000), size.runs(200)
    ours, theirs = {}, {}
    for law, icc, count in (("poisson", 0.2, 2000), ("pareto1.3", 0.2, 5000), ("pareto1.1", 0.3, 300)):
        world = closed_units(law, icc, PREDICTIONS_PER_UNIT)
        ends = race(seeded(law), world, runs, count, EITHER)
        ours[f"{law} ICC {icc}"] = ends.share("better") + ends.share("harm")
        theirs[law] = _per_prediction(law, icc, count, few)
    return Row(
        Goal("false alarms on sticky users, two-sided .05, Pareto tails included", f"<= {highest(0.05, runs)}"),
        max(ours.values()),
        peers={f"{rule} per prediction": max(c[rule] for c in theirs.values()) for rule in ("naive_z", "gbstats")},
        detail=ours,
        runs=runs,
    )


def _per_prediction(law: str, icc: float, count: int, runs: int) -> dict[str, float]:
    """Two-sided alarms of tests that take every prediction of a user for a fresh one, in mixed order."""
    found = dict.fromkeys(("naive_z", "gbstats"), 0)
    rng = seeded(f"predictions {law}")
    for _ in range(runs):
        n, rate = sizes(law, rng, (count,)), users(rng, 0.7, icc, (count,))
        order = rng.permutation(np.repeat(np.arange(count), n))
        w, y = (rng.random(count) < 0.5)[order], rng.random(len(order)) < rate[order]
        columns = [[np.cumsum(part)[9::10] for part in (here, here * y, here * y)] for here in (~w, w)]
        control, challenger = (np.stack(column, axis=-1).astype(float) for column in columns)
        for rule in found:
            decide = peers.RULES[rule]
            found[rule] += bool(decide(control, challenger).any() or decide(challenger, control).any())
    return {rule: hits / runs for rule, hits in found.items()}


RAMPS = {
    "5-50 step": ("5-50", "step"),
    "5-50 rise": ("5-50", "rise"),
    "1-10-50 step": ("1-10-50", "step"),
}


def ramp_and_trend(size: Size) -> Iterator[Row]:
    """Equal arms while the split ramps and everything gets better with time; and the estimate's bias at the end."""
    runs, few = size.runs(2000), size.runs(300)
    ours, theirs, bias, missed = {}, {}, {}, {}
    for name, (shares, trend) in RAMPS.items():
        world = binary(0.6, shares=shares, trend=trend)
        ends = race(seeded(name), world, runs, 10_000, EITHER)
        ours[name] = ends.share("better") + ends.share("harm")
        theirs[name] = peers.rates(seeded(name), world, few, 10_000)
        bias[name], missed[name] = _estimates(world, seeded(f"bias {name}"), few)
    yield Row(
        Goal("ramp and trend: false alarms, two-sided .05", "<= 0.05"),
        max(ours.values()),
        peers={rule: max(cell[rule] for cell in theirs.values()) for rule in ("gbstats", "tensorzero", "naive_z")},
        detail=ours,
        runs=runs,
    )
    yield Row(
        Goal("ramp and trend: bias of the estimate, within two standard errors of it", "<= 0.002"),
        max(max(0.0, abs(mean) - 2 * error) for mean, error in bias.values()),
        detail={name: dict(zip(("mean", "standard_error"), found, strict=True)) for name, found in bias.items()},
        runs=few,
    )
    yield Row(
        Goal("ramp and trend: the 95 % interval ever misses the effect", f"<= {highest(0.05, few)}"),
        max(missed.values()),
        detail=missed,
        runs=few,
    )


def _estimates(world: World, rng: np.random.Generator, runs: int) -> tuple[tuple[float, float], float]:
    """Mean and standard error of the final estimate, and how often the interval left the truth (0) out at some look."""
    ends, missed = [], 0
    for _ in range(runs):
        state, out = betting.begin(), False
        for block in range(40):
            w, y, pi = world(rng, np.zeros(1, dtype=int), block * 250, 250)
            state = state.fold(w[0], y[0], pi)
            lower, upper = state.interval(0.05)
            out |= not lower <= 0 <= upper
        ends.append(state.estimate() or 0.0)
        missed += out
    return (float(np.mean(ends)), float(np.std(ends) / math.sqrt(runs))), missed / runs


def sample_ratio(size: Size) -> Iterator[Row]:
    """A sound split watched every 100 units at .001, and a sound ramp."""
    runs, units, look = size.runs(20_000), 20_000, 100
    ours, theirs = {}, {}
    for name, steps in {"even": (0.5,) * 200, "5-50 ramp": (0.05,) * 60 + (0.5,) * 140}.items():
        p = np.array(steps)
        rng, hits, chi = seeded(f"srm {name}"), 0, 0
        for part in range(0, runs, 500):
            challenger = rng.binomial(look, p, (min(500, runs - part), units // look)).astype(float)
            hits += int((balance(challenger, look, p).max(axis=1) >= math.log(1000)).sum())
            got, n = challenger.cumsum(axis=1), np.arange(look, units + 1, look)
            statistic = (got - n * p) ** 2 / (n * p * (1 - p))
            chi += int((statistic > chi2.isf(0.001, 1)).any(axis=1).sum())
        ours[name], theirs[name] = hits / runs, chi / runs
    limit = f"<= {highest(0.001, runs)}"
    yield Row(Goal("sample ratio: false alarms at .001", limit), ours["even"], {"chi2": theirs["even"]}, runs=runs)
    ramp = {"chi2, current split": theirs["5-50 ramp"]}
    yield Row(Goal("sample ratio: alarms on a legitimate ramp", limit), ours["5-50 ramp"], ramp, runs=runs)


def balance(challenger: Floats, both: Floats | float, p: Floats) -> Floats:
    """The log evidence of `validity.Balance` at every look, many runs at once; the first is checked against it.

    `challenger` and `both` are how many units came between looks, runs by looks; `p` is the challenger's share at each.
    """
    units = np.broadcast_to(both, challenger.shape)
    grown = challenger[..., None] * TILTS - units[..., None] * np.log1p(p[:, None] * np.expm1(TILTS))
    capital = grown.cumsum(axis=1) + LOG_WEIGHTS
    top = capital.max(axis=-1)
    found = np.asarray(top + np.log(np.exp(capital - top[..., None]).sum(axis=-1)))
    state = validity.begin(("base", "new"))
    for got, came, share in zip(challenger[0], units[0], p, strict=True):
        state = state.fold({"new": int(got), "base": int(came - got)}, {"new": share, "base": 1 - share})
    assert abs(state.log_e() - found[0, -1]) < 1e-8, "the vectorised sample ratio is not the engine's"
    return found
