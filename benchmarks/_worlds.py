"""Simulated traffic: units in the order in which they mature, with a coin, a score, and many runs side by side."""

from collections.abc import Callable, Mapping

import numpy as np

from experiments.batch import Batch, PairBatch
from experiments.strata import Floats

World = Callable[[np.random.Generator, np.ndarray, int, int], tuple[Floats, Floats, Floats]]
"""Of (rng, the runs still going, units so far, units wanted): w and y by run and unit, and pi by unit."""
PairWorld = Callable[[np.random.Generator, np.ndarray, int, int], tuple[Floats]]
"""The same of requests that both variants answer: by how much the challenger scores better, by run and request."""
MOST_CELLS = 150_000
"""Runs times units folded at once: what stays in the processor's cache."""
RAMP = {"5-50": ((0, 0.05), (2000, 0.5)), "1-10-50": ((0, 0.01), (2000, 0.1), (5000, 0.5))}
"""Shares of the challenger from a unit on."""


def coin(shares: str | float, start: int, size: int) -> Floats:
    """The challenger's share for each unit: constant, or a ramp by its name."""
    if isinstance(shares, float):
        return np.full(size, shares)
    steps, at = RAMP[shares], np.arange(start, start + size)
    return np.array([share for _, share in steps])[np.searchsorted([begin for begin, _ in steps], at, side="right") - 1]


def binary(control: float, effect: float | Floats = 0.0, shares: str | float = 0.5, trend: str = "") -> World:
    """One prediction per unit that succeeds with a probability; `effect` per run, or the same for all."""

    def world(rng: np.random.Generator, runs: np.ndarray, start: int, size: int) -> tuple[Floats, Floats, Floats]:
        pi = coin(shares, start, size)
        w = rng.random((len(runs), size)) < pi
        level = control + drift(trend, start, size)
        shift = effect[runs][:, None] if isinstance(effect, np.ndarray) else effect
        return w.astype(float), (rng.random(w.shape) < level + shift * w).astype(float), pi

    return world


def paired(agreement: float, effect: float = 0.0) -> PairWorld:
    """Right or wrong answers that score alike with this probability; otherwise the challenger wins the more often."""
    lost = (1 - agreement - effect) / 2

    def world(rng: np.random.Generator, runs: np.ndarray, _: int, size: int) -> tuple[Floats]:
        u = rng.random((len(runs), size))
        return (np.where(u < lost, -1.0, np.where(u < 1 - agreement, 1.0, 0.0)),)

    return world


def drift(trend: str, start: int, size: int) -> Floats:
    """What time alone does to both arms: a step of .15 when the ramp steps, or a slow rise of .20."""
    at = np.arange(start, start + size)
    if trend == "step":
        return np.where(at < 2000, 0.0, 0.15)
    return np.minimum(at / 10_000, 1) * 0.2 if trend == "rise" else np.zeros(size)


def sizes(law: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """How many predictions each user makes: Poisson 10 (`poisson`), or a Pareto tail (`pareto1.1`), 2,000 at most."""
    if law == "poisson":
        return np.maximum(1, rng.poisson(10, shape))
    tail = float(law.removeprefix("pareto"))
    return np.minimum(2000, np.ceil(rng.random(shape) ** (-1 / tail))).astype(int)


def users(rng: np.random.Generator, level: Floats | np.ndarray | float, icc: float, shape: tuple[int, ...]) -> Floats:
    """Each user's own rate of success: Beta, with this mean and this correlation within a user."""
    strength = 1 / icc - 1
    mean = np.broadcast_to(np.clip(level, 0.01, 0.99), shape)
    return rng.beta(mean * strength, (1 - mean) * strength)


def closed_units(
    law: str,
    icc: float,
    most: int,
    effect: float | Floats = 0.0,
    shares: str | float = 0.5,
    trend: str = "",
    heard: float = 1.0,
) -> World:
    """Sticky users, each once, with the mean of its first `most` predictions; unheard successes count as failures."""

    def world(rng: np.random.Generator, runs: np.ndarray, start: int, size: int) -> tuple[Floats, Floats, Floats]:
        shape, pi = (len(runs), size), coin(shares, start, size)
        w = rng.random(shape) < pi
        shift = effect[runs][:, None] if isinstance(effect, np.ndarray) else effect
        rates = users(rng, 0.7 + drift(trend, start, size) + shift * w, icc, shape)
        n = np.minimum(sizes(law, rng, shape), most)
        return w.astype(float), rng.binomial(n, rates * heard) / n, pi

    return world


class Ends:
    """How each run ended: the side that crossed first ("" for none) and after how many units."""

    def __init__(self, runs: int) -> None:
        self.side = np.full(runs, "", dtype="<U8")
        self.units = np.zeros(runs, dtype=int)

    def share(self, side: str) -> float:
        """How many of a hundredth ended so, from 0 to 1."""
        return float((self.side == side).mean())


def race(
    rng: np.random.Generator,
    world: World | PairWorld,
    runs: int,
    units: int,
    thresholds: Mapping[str, float | Floats],
    *,
    min_effect: float | None = None,
    look: int = 1,
    evidence: type[Batch] | type[PairBatch] = Batch,
) -> Ends:
    """Fold and look after every `look` units until a side reaches its log threshold or `units` have matured.

    The centre is set anew every 10 units, later every twentieth part of what there is, as blocks would.
    """
    batch = evidence(runs, min_effect=min_effect, sides=tuple(thresholds))
    ends, going, n = Ends(runs), np.arange(runs), 0
    while n < units and len(going):
        size = min(max(10, n // 20), units - n, max(10, MOST_CELLS // len(going)))
        found = batch.fold(*world(rng, going, n, size))
        seen = np.flatnonzero((np.arange(n + 1, n + size + 1) % look == 0) | (n + size >= units))
        first, side = first_crossing(found, {k: _of(v, going) for k, v in thresholds.items()}, seen)
        over = first < len(seen)
        ends.side[going[over]] = side[over]
        ends.units[going[over]] = n + 1 + seen[first[over]]
        n += size
        if over.any():
            batch.keep(~over)
            going = going[~over]
    ends.units[going] = n
    return ends


def first_crossing(
    found: Mapping[str, Floats], thresholds: Mapping[str, float | Floats], seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Per run the first look at which a side is over, and which; harm before better before futile at one look."""
    runs = len(next(iter(found.values())))
    first, side = np.full(runs, len(seen)), np.full(runs, "", dtype="<U8")
    for name in ("harm", "better", "futile"):
        if name in found and len(seen):
            limit = thresholds[name]
            over = found[name][:, seen] >= (limit[:, None] if isinstance(limit, np.ndarray) else limit)
            at = np.where(over.any(axis=1), over.argmax(axis=1), len(seen))
            side = np.where(at < first, name, side)
            first = np.minimum(first, at)
    return first, side


def _of(limit: float | Floats, runs: np.ndarray) -> float | Floats:
    return limit[runs] if isinstance(limit, np.ndarray) else limit
