"""The whole loop against what people do without it: answers lost, wrong promotions, recompiles, in simulated worlds.

    make bench-loop [ARGS="--minutes 30 --keep"]

Each world has users who come back, labels that come late or never, and two changes of regime: abrupt, over five days,
or there and back again. Every policy meets the same worlds. As many worlds as fit the minutes are played, a core each;
one JSON object per policy, then one per goal. `--keep` keeps the lines in `benchmarks/loop.jsonl`.

`ratchet` is this repository's detector, cycle, gate, assignment, folding and decisions, hour by hour; candidates and
their quality are drawn by chance, and a compile is taken to cost $5. See `_loop_worlds` for what is drawn.
"""

import argparse
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import count, islice
from pathlib import Path
from typing import Any

import msgspec

from benchmarks._goals import Goal, Row
from benchmarks._loop_policies import POLICIES
from benchmarks._loop_worlds import DAYS, KINDS, PER_HOUR, World

COMPILE_DOLLARS = 5
MOST_WRONG = 0.01
KEPT = Path(__file__).with_name("loop.jsonl")


class Fared(msgspec.Struct, frozen=True):
    """How one policy fared in one world: right answers lost per 1,000 predictions, and what it did."""

    lost: float
    promotions: int
    wrong: int
    compiles: int


class Standing(msgspec.Struct, frozen=True):
    """One policy over all worlds. `wrong` is the share of promotions that were of nothing better."""

    policy: str
    lost_per_1000: float
    standard_error: float
    by_kind: dict[str, float]
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
    parser.add_argument("--keep", action="store_true", help="keep the lines")
    options = parser.parse_args()
    began = time.monotonic()
    fared = played(options.minutes * 60, options.worlds)
    standings = [standing(policy, found) for policy, found in fared.items()]
    lines = [{"measure": "loop", **msgspec.to_builtins(one)} for one in standings]
    lines += [{**row.line(), "measure": "loop goals"} for row in goals(standings)]
    lines += [{"check": "run", "minutes": round((time.monotonic() - began) / 60, 1), "cores": os.cpu_count()}]
    for line in lines:
        print(json.dumps(line))
    if options.keep:
        KEPT.write_text("".join(json.dumps(line) + "\n" for line in lines))


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


def _batches(numbers: Any) -> Iterator[list[int]]:
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


def standing(policy: str, found: dict[tuple[str, int], Fared]) -> Standing:
    """One policy over all worlds."""
    results, n = list(found.values()), len(found)
    mean = math.fsum(one.lost for one in results) / n
    spread = math.fsum((one.lost - mean) ** 2 for one in results) / max(1, n - 1)
    promotions = sum(one.promotions for one in results)
    compiles = sum(one.compiles for one in results) / n
    kinds = {kind: [one.lost for (of, _), one in found.items() if of == kind] for kind in KINDS}
    return Standing(
        policy=policy,
        lost_per_1000=round(mean, 2),
        standard_error=round(math.sqrt(spread / n), 2),
        by_kind={kind: round(math.fsum(lost) / len(lost), 2) for kind, lost in kinds.items()},
        promotions=promotions,
        wrong=round(sum(one.wrong for one in results) / max(1, promotions), 4),
        recompiles=round(compiles, 2),
        dollars=round(compiles * COMPILE_DOLLARS, 2),
        worlds=n,
    )


def goals(standings: Sequence[Standing]) -> list[Row]:
    """The goals of the loop; of a policy that promotes the worse too often, its loss is no bargain."""
    by = {one.policy: one for one in standings}
    ours, knowing = by["ratchet"], by["clairvoyant that must test"]
    others = {
        one.policy: one.lost_per_1000 for one in standings if one not in (ours, knowing) and one.wrong <= MOST_WRONG
    }
    best = min(others.values())
    peers = {one.policy: one.wrong for one in standings if one is not ours}
    runs = ours.worlds
    return [
        Row(Goal("wrong promotions, of all", f"<= {MOST_WRONG}"), ours.wrong, peers, runs=runs),
        Row(
            Goal("answers lost, over the best other policy with as few wrong promotions", "<= 1"),
            ours.lost_per_1000 / best,
            others,
            runs=runs,
        ),
        Row(
            Goal("answers lost, over a clairvoyant that must test its candidates", "<= 1.5"),
            ours.lost_per_1000 / knowing.lost_per_1000,
            {"clairvoyant": knowing.lost_per_1000},
            runs=runs,
        ),
    ]


if __name__ == "__main__":
    main()
