"""The whole loop against what people do without it: answers lost, wrong promotions, recompiles, in simulated worlds.

    make bench-loop [ARGS="--minutes 30 --write"]

Each world has users who come back, labels that come late or never, and two changes of regime: abrupt, over five days,
or there and back again. Every policy meets the same worlds. As many worlds as fit the minutes are played, a core each;
one JSON object per policy, then one per goal. `--write` puts the tables into `docs/benchmarks.md`.

`ratchet` is this repository's detector, cycle, gate, assignment, folding and decisions, hour by hour; candidates and
their quality are drawn by chance, and a compile is taken to cost $5. See `_loop_worlds` for what is drawn.
"""

import argparse
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import count, islice
from statistics import fmean, stdev

import msgspec

from benchmarks._loop_policies import POLICIES
from benchmarks._loop_worlds import DAYS, KINDS, PER_HOUR, World
from benchmarks._results import Results, met

COMPILE_DOLLARS = 5
MOST_WRONG = 0.01


class Fared(msgspec.Struct, frozen=True):
    """How one policy fared in one world: right answers lost per 1,000 predictions, and what it did."""

    lost: float
    promotions: int
    wrong: int
    compiles: int


class Standing(msgspec.Struct, frozen=True):
    """One policy over all worlds, and over those of each kind: answers lost per 1,000; `wrong` is a share."""

    lost_per_1000: float
    standard_error: float
    abrupt: float
    gradual: float
    recurring: float
    promotions: int
    wrong: float
    recompiles: float
    dollars: float
    worlds: int


def main() -> None:
    """Play worlds until the time is over, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--worlds", type=int, help="this many of each kind, however long it takes")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    results = Results("loop")
    standings = {policy: standing(found) for policy, found in played(options.minutes * 60, options.worlds).items()}
    for policy, one in standings.items():
        results.add("policies", policy=policy, **msgspec.to_builtins(one))
    tell(results, standings)
    if options.write:
        results.write()


def played(seconds: float, worlds: int | None) -> dict[str, dict[tuple[str, int], Fared]]:
    """What every policy made of every world, whole rounds of one world of each kind."""
    until, fared = time.monotonic() + seconds, defaultdict[str, dict[tuple[str, int], Fared]](dict)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for numbers in _batches(range(worlds) if worlds else count()):
            chosen = [(kind, number) for number in numbers for kind in KINDS]
            for (kind, number), found in zip(chosen, pool.map(play, *zip(*chosen, strict=True)), strict=True):
                for policy, result in found.items():
                    fared[policy][kind, number] = result
            if worlds is None and time.monotonic() > until:
                break
    return dict(fared)


def _batches(numbers: Iterable[int]) -> Iterator[list[int]]:
    """Four at a time."""
    numbers = iter(numbers)
    while batch := list(islice(numbers, 4)):
        yield batch


def play(kind: str, number: int) -> dict[str, Fared]:
    """One world under every policy."""
    found = {}
    for name, policy in POLICIES.items():
        course = policy(World(kind, number)).run()
        lost = course.lost / (DAYS * 24 * PER_HOUR) * 1000
        found[name] = Fared(lost, course.promotions, course.wrong, course.compiles)
    return found


def standing(found: dict[tuple[str, int], Fared]) -> Standing:
    """One policy over all worlds."""
    results, n = list(found.values()), len(found)
    mean = fmean(one.lost for one in results)
    promotions = sum(one.promotions for one in results)
    compiles = sum(one.compiles for one in results) / n
    kinds = {kind: round(fmean(one.lost for (of, _), one in found.items() if of == kind), 1) for kind in KINDS}
    return Standing(
        lost_per_1000=round(mean, 1),
        standard_error=round(stdev(one.lost for one in results) / math.sqrt(n), 1),
        **kinds,
        promotions=promotions,
        wrong=round(sum(one.wrong for one in results) / max(1, promotions), 4),
        recompiles=round(compiles, 2),
        dollars=round(compiles * COMPILE_DOLLARS, 2),
        worlds=n,
    )


def tell(results: Results, standings: Mapping[str, Standing]) -> None:
    """The goals of the loop; of a policy that promotes the worse too often, its loss is no bargain."""
    ours, knowing = standings["ratchet"], standings["clairvoyant that must test"]
    rivals = [one for one in standings.values() if one not in (ours, knowing) and one.wrong <= MOST_WRONG]
    figures = {
        "wrong promotions, of all": (ours.wrong, f"<= {MOST_WRONG}"),
        "answers lost, over the best other policy with as few wrong promotions": (
            ours.lost_per_1000 / min(one.lost_per_1000 for one in rivals),
            "<= 1",
        ),
        "answers lost, over a clairvoyant that must test": (ours.lost_per_1000 / knowing.lost_per_1000, "<= 1.5"),
    }
    for figure, (value, goal) in figures.items():
        results.add("goals", figure=figure, measured=round(value, 4), goal=goal, met=met(value, goal))


if __name__ == "__main__":
    main()
