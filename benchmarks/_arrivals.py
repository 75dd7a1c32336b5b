"""The gate of arrival parity: how often it calls sound arrivals uneven, and how soon it notices a loss in one arm.

Of `expected: sampled` metrics a missing outcome is left out, so an arm that loses its failures would look better. The
gate compares which units' outcomes arrived with the split, by `experiments/validity.py` at .001, after every block.
"""

import math
from collections.abc import Iterator

import numpy as np
from scipy.stats import norm

from benchmarks._goals import Goal, Row, Size, Table, highest, seeded
from benchmarks._rates import balance
from experiments.decision import BALANCE
from experiments.strata import Floats

LOOK = 100
"""Units that enter between two looks."""
UNITS = (2000, 5000, 10_000)
"""Of both arms together."""
SHARES = ((0.5, 0.45), (0.5, 0.4), (0.5, 0.3), (0.2, 0.16), (0.2, 0.12), (0.05, 0.03), (0.9, 0.8))
"""Of the champion's units and of the challenger's, those whose outcome arrives."""
GOALS = {(0.5, 0.3): (2000, 0.95), (0.5, 0.4): (5000, 0.8), (0.5, 0.45): (10_000, 0.3)}
EVEN = (0.5,) * 200
RAMP = (0.05,) * 60 + (0.5,) * 140


def arrival_parity(size: Size) -> Iterator[Row | Table]:
    """False alarms of sound arrivals, and the power where the challenger loses some of its outcomes."""
    runs = size.runs(20_000)
    for name, split in {"": EVEN, " through a ramp": RAMP}.items():
        found = {f"{share:.0%}": _alarms(share, share, split, runs)[-1] for share in (0.05, 0.5, 0.9)}
        goal = Goal(f"arrival parity: false alarms at .001{name}, any share arriving", f"<= {highest(BALANCE, runs)}")
        yield Row(goal, max(found.values()), detail=found, runs=runs)
    runs = size.runs(4000)
    power = {pair: _alarms(*pair, EVEN, runs)[[n // LOOK - 1 for n in UNITS]] for pair in SHARES}
    for (control, challenger), (units, least) in GOALS.items():
        yield Row(
            Goal(
                f"arrival parity: {control:.0%} against {challenger:.0%} arriving is found within {units:,} units",
                f">= {least}",
            ),
            float(power[control, challenger][UNITS.index(units)]),
            {"z-test at .001, one look": _one_look(control, challenger, units)},
            runs=runs,
        )
    yield Table(
        "How often the arrival gate has fired, by the shares of outcomes arriving and the units that entered",
        ("champion against challenger", *(f"{n:,} units" for n in UNITS)),
        {f"{a:.0%} against {b:.0%}": found.tolist() for (a, b), found in power.items()},
        runs,
    )


def _alarms(control: float, challenger: float, split: tuple[float, ...], runs: int) -> Floats:
    """The share of runs in which the gate has fired, at every look."""
    p, rng, fired = np.array(split), seeded(f"arrivals {control} {challenger} {split[0]}"), np.zeros(len(split))
    for part in range(0, runs, 500):
        entered = rng.binomial(LOOK, p, (min(500, runs - part), len(split)))
        theirs = rng.binomial(entered, challenger).astype(float)
        both = theirs + rng.binomial(LOOK - entered, control).astype(float)
        over = balance(theirs, both, p) >= math.log(1 / BALANCE)
        fired += np.maximum.accumulate(over, axis=1).sum(axis=0)
    return np.asarray(fired / runs)


def _one_look(control: float, challenger: float, units: int) -> float:
    """The power of a test that may look once only, at these units, at an even split."""
    both = (control + challenger) * units / 2
    share = challenger / (control + challenger)
    far = abs(share - 0.5) * math.sqrt(both)
    return float(norm.sf((norm.isf(BALANCE / 2) * 0.5 - far) / math.sqrt(share * (1 - share))))
