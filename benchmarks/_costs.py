"""What a decision costs in units, and what a hundred decisions in a row promise together."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from benchmarks import _peers as peers
from benchmarks._goals import Goal, Row, Size, highest, seeded
from benchmarks._worlds import World, binary, closed_units, race, sizes, users
from experiments import folding, sequence
from experiments.decision import FUTILITY, HARM
from experiments.strata import Floats

FOUND = {"better": math.log(1 / 0.025)}
MIXED = np.array([0.0] * 60 + [-0.03] * 15 + [0.03] * 10 + [0.05] * 10 + [0.08] * 5)
"""The true effects among a hundred candidates of a loop that mostly proposes nothing better."""
MIN_EFFECT = 0.03
MOST_UNITS = 200_000


def sample_size(size: Size) -> list[Row]:
    """Units per arm until a true effect is found at one-sided .025, over the least any open-ended test needs."""
    cells = {0.02: 3000, 0.05: 6000, 0.10: 8000, 0.20: 10_000}
    ratios, spent, theirs, error = {}, {}, {}, {}
    for effect, full in cells.items():
        runs, name = size.runs(full), f"sample size {effect}"
        ends = race(seeded(name), binary(0.7, effect), runs, MOST_UNITS, FOUND)
        assert ends.share("better") == 1, "an open-ended test was cut short"
        spent[effect] = ends.units.mean() / 2
        ratios[effect] = spent[effect] / open_ended(0.7, effect)
        error[effect] = ratios[effect] * ends.units.std() / ends.units.mean() / math.sqrt(runs)
        few = min(runs, 1000)
        rule: dict[str, peers.Rule] = {"gbstats": peers.gbstats}
        _, at = peers.promoted(seeded(name), binary(0.7, effect), few, round(20 * open_ended(0.7, effect)) * 2, rule)[
            "gbstats"
        ]
        theirs[effect] = at.mean() / 2 / open_ended(0.7, effect)
    detail = {f"{effect:g}": {"ratio": ratios[effect], "standard_error": error[effect]} for effect in cells}
    worst = max(ratios.values())
    beside = {"gbstats": max(theirs.values()), "prototype": 1.56}
    return [
        Row(Goal("units over the open-ended bound, worst of effects .02 to .20", "<= 1.5"), worst, beside, detail),
        Row(Goal("the same, beyond the prototype", "<= 1.4"), worst, beside, detail),
        Row(
            Goal("units per arm for .70 against .75, two-sided .05", "<= 1426"),
            spent[0.05],
            {"gbstats": theirs[0.05] * open_ended(0.7, 0.05), "bound": open_ended(0.7, 0.05)},
            {"standard_error": error[0.05] * open_ended(0.7, 0.05)},
            size.runs(cells[0.05]),
        ),
    ]


def open_ended(base: float, effect: float, alpha: float = 0.025) -> float:
    """ln(1/α) over the information per pair of units: the least expected units per arm of a test without an end."""
    null = base + effect / 2
    return math.log(1 / alpha) / sum(_divergence(p, null) for p in (base, base + effect))


def _divergence(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


class Loop:
    """Series of a hundred experiments, many side by side: which were promoted, and the units of each."""

    def __init__(self, loops: int, effects: Floats, worlds: str) -> None:
        rng = seeded(f"loop {worlds} {effects.max()}")
        self.effects = np.stack([rng.permutation(effects) for _ in range(loops)])
        self.promoted = np.zeros(self.effects.shape, dtype=bool)
        self.units = np.zeros(self.effects.shape, dtype=int)
        past: list[list[float | None]] = [[] for _ in range(loops)]
        for t in range(1, effects.size + 1):
            levels = [sequence.level(0.05, mine) for mine in past]
            limits: dict[str, float | Floats] = {
                "better": -np.log(levels),
                "harm": math.log(1 / HARM),
                "futile": math.log(1 / FUTILITY),
            }
            world = loop_world(worlds, self.effects[:, t - 1])
            ends = race(rng, world, loops, MOST_UNITS, limits, min_effect=MIN_EFFECT, look=5)
            self.promoted[:, t - 1], self.units[:, t - 1] = ends.side == "better", ends.units
            for mine, level, promoted in zip(past, levels, self.promoted[:, t - 1], strict=True):
                mine.append(level if promoted else None)

    @property
    def false(self) -> NDArray[np.bool_]:
        """Promotions of what is no better."""
        return np.asarray(self.promoted & (self.effects <= 0))

    def discovery_rate(self) -> float:
        """The mean over loops of the share of promotions that are false."""
        return float((self.false.sum(axis=1) / np.maximum(1, self.promoted.sum(axis=1))).mean())

    def power(self) -> float:
        """The share of true improvements that are promoted."""
        return float(self.promoted[self.effects > 0].mean())


def loop_world(name: str, effects: Floats) -> World:
    """Plain requests at an even split; or sticky users, a ramp, a trend, outcomes that stay away, all at once."""
    if name == "plain":
        return binary(0.7, effects)
    return closed_units("poisson", 0.2, folding.PREDICTIONS_PER_UNIT, effects, shares="5-50", trend="step", heard=0.95)


def series(size: Size) -> list[Row]:
    """Loops of a hundred experiments at α = .05, futility .1, a look every 5 units, without an end."""
    loops = size.runs(500)
    null, mixed = Loop(loops, np.zeros(100), "plain"), Loop(loops, MIXED, "plain")
    rivals = {name: _peer_series(rule, size.runs(30)) for name, rule in peers.RULES.items()}
    spent = mixed.units.mean()
    about = {"standard_error": mixed.units.mean(axis=1).std() / math.sqrt(loops), "by_effect": _by_effect(mixed)}
    return [
        Row(
            Goal("100 null experiments: any false promotion", "<= 0.05"),
            float(null.false.any(axis=1).mean()),
            {name: found["any"] for name, found in rivals.items()},
            runs=loops,
        ),
        Row(Goal("100 null experiments: units each", "<= 4600"), null.units.mean(), {"gbstats": 10_000}, runs=loops),
        Row(
            Goal("mixed loop: false discovery rate", "<= 0.05"),
            mixed.discovery_rate(),
            {name: found["false"] for name, found in rivals.items()},
            runs=loops,
        ),
        Row(
            Goal("mixed loop: power", ">= 0.95"),
            mixed.power(),
            {name: found["power"] for name, found in rivals.items()},
            runs=loops,
        ),
        *(
            Row(
                Goal(f"mixed loop: units each{beyond}", bound),
                spent,
                {name: found["units"] for name, found in rivals.items()},
                about,
                loops,
            )
            for beyond, bound in (("", "<= 5000"), (", beyond the prototype", "<= 4500"))
        ),
    ]


def _by_effect(loop: Loop) -> dict[str, dict[str, float]]:
    found = {}
    for effect in np.unique(loop.effects):
        here = loop.effects == effect
        found[f"{effect:g}"] = {"units": float(loop.units[here].mean()), "promoted": float(loop.promoted[here].mean())}
    return found


def _peer_series(rule: peers.Rule, loops: int) -> dict[str, float]:
    """A hundred experiments each on its own at .05, stopped at 5,000 units per arm; peers know no series."""
    rng = seeded("peer series")
    null, _ = peers.promoted(rng, binary(0.7), loops * 100, 10_000, {"it": rule}, look=50)["it"]
    effects = np.tile(MIXED, loops)
    hit, at = peers.promoted(rng, binary(0.7, effects), loops * 100, 10_000, {"it": rule}, look=50)["it"]
    promoted, wrong = hit.reshape(loops, 100), (hit & (effects <= 0)).reshape(loops, 100)
    return {
        "any": float(null.reshape(loops, 100).any(axis=1).mean()),
        "false": float((wrong.sum(axis=1) / np.maximum(1, promoted.sum(axis=1))).mean()),
        "power": float(hit[effects > 0].mean()),
        "units": float(at.mean()),
    }


def everything(size: Size) -> list[Row]:
    """Sticky users, a ramp with a trend, outcomes that stay away, and a series of 100: all in one."""
    loops = size.runs(200)
    null, mixed = Loop(loops, np.zeros(100), "everything"), Loop(loops, MIXED, "everything")
    return [
        Row(
            Goal("everything at once: any false promotion in 100 null experiments", f"<= {highest(0.05, loops)}"),
            float(null.false.any(axis=1).mean()),
            detail={"units": null.units.mean()},
            runs=loops,
        ),
        Row(
            Goal("everything at once, mixed loop: false discovery rate", "<= 0.05"),
            mixed.discovery_rate(),
            detail={"power": mixed.power(), "units": mixed.units.mean()},
            runs=loops,
        ),
    ]


def units_of_analysis(size: Size) -> list[Row]:
    """A true +.05 on users with Poisson(10) predictions, correlation .2: three ways to ask, in their own currency."""
    runs = size.runs(3000)
    ways = {k: closed_units("poisson", 0.2, k, 0.05) for k in (1, folding.PREDICTIONS_PER_UNIT, 10)}
    entered = {k: race(seeded("users"), world, runs, 30_000, FOUND).units.mean() for k, world in ways.items()}
    asked = race(seeded("requests"), _clustered_requests(0.05), runs, 100_000, FOUND).units.mean()
    scored = _score(0.05, runs)
    ours = entered[folding.PREDICTIONS_PER_UNIT]
    return [
        Row(
            Goal("predictions by sticky users over predictions by a coin per request", ">= 2"),
            ours * 10 / asked,
            {"others": "no coin per request"},
            {"per_request": asked, "sticky": ours * 10},
            runs,
        ),
        Row(
            Goal("users of the closed-unit test over users of the score test", "<= 1.25"),
            ours / scored,
            {},
            {"score": scored, **{f"first {k}": found for k, found in entered.items()}},
            runs,
        ),
    ]


def _clustered_requests(effect: float) -> World:
    """Every prediction has a coin of its own; ten in a row are of one user."""

    def world(rng: np.random.Generator, runs: np.ndarray, _: int, size: int) -> tuple[Floats, Floats, Floats]:
        rates = np.repeat(users(rng, 0.7, 0.2, (len(runs), -(-size // 10))), 10, axis=1)[:, :size]
        w = rng.random(rates.shape) < 0.5
        return w.astype(float), (rng.random(rates.shape) < rates + effect * w).astype(float), np.full(size, 0.5)

    return world


def _score(effect: float, runs: int) -> float:
    """Users until the score test on per-user means, in information time with τ = .05, finds the effect."""
    rng, spent = seeded("score"), []
    for _ in range(runs):
        w = rng.random(30_000) < 0.5
        n = sizes("poisson", rng, w.shape)
        y = rng.binomial(n, users(rng, 0.7 + effect * w, 0.2, w.shape)) / n
        psi = (w - 0.5) * (y - np.concatenate([[0.5], np.cumsum(y)[:-1] / np.arange(1, len(y))]))
        s, q, d = (np.cumsum(part)[200:] for part in (psi, psi**2, np.full(len(y), 0.25)))
        over = _normal_mixture(s / d, d**2 / q) >= FOUND["better"]
        spent.append(201 + int(over.argmax()) if over.any() else len(y))
    return float(np.mean(spent))


def _normal_mixture(estimate: Floats, information: Floats) -> Floats:
    rho = 1 / 0.05**2
    t, whole = information * estimate, information + rho
    return np.asarray(math.log(2) + 0.5 * np.log(rho / whole) + t * t / (2 * whole) + log_ndtr(t / np.sqrt(whole)))
