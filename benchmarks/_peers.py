"""What others promote by, from their published formulas, over arrays of runs and looks.

`gbstats` is checked against the package itself, pinned in an environment of its own; see `verify_gbstats`. A rule says
of (n, sum, sum of squares) of control and challenger whether it would promote the challenger.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks._worlds import World
from experiments.strata import Floats

Rule = Callable[[Floats, Floats], np.ndarray]
TUNED_FOR = 5000
"""gbstats' default `sequential_tuning_parameter`."""
ROOT = Path(__file__).parents[1]


def naive(control: Floats, challenger: Floats) -> np.ndarray:
    """z > 1.96, looked at again and again."""
    difference, error = _difference(control, challenger)
    return np.asarray(difference > 1.959963984540054 * error)


def tensorzero(control: Floats, challenger: Floats) -> np.ndarray:
    """Track-and-stop: GLR = gap² / (2 Σ s²/n) > ln((1 + ln t)/δ), δ = .05, ten per arm at least, floor 1e-12."""
    (n_0, _, var_0), (n_1, _, var_1) = _law(control), _law(challenger)
    gap, _ = _difference(control, challenger)
    with np.errstate(divide="ignore", invalid="ignore"):
        glr = gap**2 / (2 * (np.maximum(var_0, 1e-12) / n_0 + np.maximum(var_1, 1e-12) / n_1))
        stop = glr > np.log((1 + np.log(n_0 + n_1)) / 0.05)
    return np.asarray(stop & (gap > 0) & (np.minimum(n_0, n_1) >= 10))


def gbstats(control: Floats, challenger: Floats, alpha: float = 0.05) -> np.ndarray:
    """gbstats 0.8.0, sequential, absolute: the lower end of its interval is above 0."""
    difference, error = _difference(control, challenger)
    return np.asarray(difference > halfwidth(control[..., 0] + challenger[..., 0], error, alpha))


def gbstats_relative(control: Floats, challenger: Floats, alpha: float = 0.05) -> np.ndarray:
    """gbstats 0.8.0, sequential, its default difference: relative, by the delta method."""
    (n_0, mean_0, var_0), (n_1, mean_1, var_1) = _law(control), _law(challenger)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(var_1 / (n_1 * mean_0**2) + var_0 * mean_1**2 / (n_0 * mean_0**4))
        lift = (mean_1 - mean_0) / mean_0
    return np.asarray(lift > halfwidth(n_0 + n_1, error, alpha))


RULES: dict[str, Rule] = {
    "naive_z": naive,
    "tensorzero": tensorzero,
    "gbstats": gbstats,
    "gbstats_relative": gbstats_relative,
}


def halfwidth(n: Floats, error: Floats, alpha: float) -> Floats:
    """gbstats' sequential interval: a normal mixture with ρ tuned for N* = 5000, in units of N."""
    rho = np.sqrt((-2 * np.log(alpha) + np.log(-2 * np.log(alpha) + 1)) / TUNED_FOR)
    spread = n * rho**2 + 1
    return np.asarray(np.sqrt(n) * error * np.sqrt(2 * spread * np.log(np.sqrt(spread) / alpha)) / (n * rho))


def promoted(
    rng: np.random.Generator, world: World, runs: int, units: int, rules: Mapping[str, Rule], look: int = 10
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per rule: which runs it promoted in, and after how many units (all of them where it did not)."""
    sums = np.zeros((runs, 2, 3))
    going, n = {name: np.full(runs, units) for name in rules}, 0
    hits = {name: np.zeros(runs, dtype=bool) for name in rules}
    units -= units % look
    while n < units:
        size = min(max(look, 200_000 // runs // look * look), units - n)
        w, y, _ = world(rng, np.arange(runs), n, size)
        control, challenger = (_running(y, w == arm, sums[:, arm], look) for arm in (0, 1))
        for name, rule in rules.items():
            over = rule(control, challenger)
            new = over.any(axis=1) & ~hits[name]
            going[name][new] = n + look * (1 + over.argmax(axis=1)[new])
            hits[name] |= new
        sums[:, 0], sums[:, 1] = control[:, -1], challenger[:, -1]
        n += size
    return {name: (hits[name], going[name]) for name in rules}


def rates(
    rng: np.random.Generator, world: World, runs: int, units: int, rules: dict[str, Rule] | None = None, look: int = 10
) -> dict[str, float]:
    """The share of runs that each rule promoted in."""
    found = promoted(rng, world, runs, units, RULES if rules is None else rules, look)
    return {name: round(float(hit.mean()), 4) for name, (hit, _) in found.items()}


def _running(y: Floats, here: np.ndarray, before: Floats, look: int) -> Floats:
    parts = [np.cumsum(part, axis=1)[:, look - 1 :: look] for part in (here, here * y, here * y * y)]
    return np.stack(parts, axis=-1) + before[:, None, :]


def _law(arm: Floats) -> tuple[Floats, Floats, Floats]:
    n = arm[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = arm[..., 1] / n
        return n, mean, np.maximum(0, arm[..., 2] / n - mean**2) * n / (n - 1)


def _difference(control: Floats, challenger: Floats) -> tuple[Floats, Floats]:
    (n_0, mean_0, var_0), (n_1, mean_1, var_1) = _law(control), _law(challenger)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(var_0 / n_0 + var_1 / n_1)
    return mean_1 - mean_0, np.where(error > 0, error, np.inf)


def verify_gbstats(rng: np.random.Generator) -> dict[str, object]:
    """Whether the package's own answers are those of the formulas here, on random states; loud where it is missing."""
    python = ROOT / ".venv-gbstats/bin/python"
    if not python.exists():
        print("gbstats is NOT verified: its environment is missing (make .venv-gbstats)", file=sys.stderr)
        return {"package": None}
    n = rng.integers(200, 20_000, (300, 2))
    successes = rng.binomial(n, rng.choice([0.05, 0.3, 0.7], (300, 1)) + rng.choice([0, 0.02, 0.05], (300, 2)))
    asked = json.dumps(np.stack([n, successes], axis=-1).tolist())
    answer = subprocess.run(
        [str(python), str(ROOT / "benchmarks/_gbstats.py")], input=asked, capture_output=True, text=True, check=True
    )
    told = json.loads(answer.stdout)
    share = successes / n  # the package takes p(1-p) for the variance of a proportion
    error = np.sqrt((share * (1 - share) / n).sum(axis=1))
    mine = halfwidth(n.sum(axis=1).astype(float), error, 0.05)
    gap = float(np.abs(np.array(told["halfwidths"]) / mine - 1).max())
    assert gap < 1e-12, f"gbstats and its formula differ by {gap}"
    state = np.stack([n, successes, successes], axis=-1).astype(float)
    agree = np.mean(np.array(told["promotes"]) == gbstats(state[:, 0], state[:, 1]))
    return {"package": told["version"], "states": 300, "largest_difference": gap, "agree": float(agree)}
