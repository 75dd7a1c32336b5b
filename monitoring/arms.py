"""One arm of a drift detector: its baseline, the bets on it, and where a change would have begun.

`Arm` is what is stored. `Stream` is the same while outcomes are folded into it: mutable, because a hundred thousand are
replayed at a time, and never kept.
"""

import math

import msgspec

from monitoring.baseline import Baseline
from monitoring.design import Design, stakes

WINDOW = 500
"""Outcomes that the recent score is about, to within a bucket."""
BUCKET = 50


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """A place in an arm's stream: the time of the outcome that comes next, and the number and sum of those before."""

    at: int
    n: int
    s: float


class Arm(msgspec.Struct, frozen=True):
    """What is known of one arm.

    `evidence` holds R_k, `runs` the capital of the bets since their `starts` (1 or less: no run); all are empty until
    the first bet. The open block has `count` outcomes with the sum `total`, the first from the time `first`. `after`
    counts and sums the outcomes since an alarm. `recent` holds the sums of the last full buckets, `bucket` the number
    and sum in the one being filled. `floor` is the highest null that was given up by an acknowledgement.
    """

    baseline: Baseline = Baseline()
    evidence: tuple[float, ...] = ()
    runs: tuple[float, ...] = ()
    starts: tuple[Mark, ...] = ()
    count: int = 0
    total: float = 0.0
    first: int = 0
    after: tuple[int, float] = (0, 0.0)
    recent: tuple[float, ...] = ()
    bucket: tuple[int, float] = (0, 0.0)
    floor: float | None = None

    @property
    def outcomes(self) -> int:
        """All outcomes that were seen, and those that the baseline began with."""
        return self.baseline.n + self.count + self.after[0]

    @property
    def score(self) -> float | None:
        """The mean of the last `WINDOW` outcomes in full blocks, None without any."""
        n = self.bucket[0] + BUCKET * len(self.recent)
        return (self.bucket[1] + math.fsum(self.recent)) / n if n else None

    def null(self, design: Design) -> float | None:
        """What is bet against; None before there is a null."""
        return self.baseline.null if design.known is None else design.known

    @property
    def level(self) -> float:
        """The mean of R_k over the bets; 0 before the first one."""
        return mean(self.evidence)

    @property
    def suspect(self) -> Mark | None:
        """Where the present run began of the bet that has won most; None while it has no run."""
        if not self.evidence:
            return None
        best = max(range(len(self.evidence)), key=self.evidence.__getitem__)
        return self.starts[best] if self.runs[best] > 1 else None

    def cleared(self) -> "Arm":
        """The arm without evidence, held to what it was held to."""
        baseline, (n, s) = self.baseline, self.after
        learned = msgspec.structs.replace(baseline, n=baseline.n + n, s=baseline.s + s)
        return msgspec.structs.replace(self, baseline=learned, evidence=(), runs=(), starts=(), after=(0, 0.0))

    def rebased(self, design: Design) -> "Arm":
        """The arm without evidence, held to what it has done since the change."""
        baseline, since, (n, s) = self.baseline, self.suspect, self.after
        if since is not None:
            n, s = n + baseline.n - since.n, s + baseline.s - since.s
        lowered = Baseline(n, min(max(s, 0.0), float(n))).reviewed(design)  # a difference of sums may be a little off
        floor = max((null for null in (self.floor, baseline.null) if null is not None), default=None)
        return msgspec.structs.replace(self.cleared(), baseline=lowered, floor=floor)


def known_by(design: Design, n: int, s: float) -> Arm:
    """An arm of which `n` outcomes with the sum `s` are known, without evidence against it. Raises: ValueError."""
    return Arm(baseline=Baseline(n, float(s)).reviewed(design))


def mean(levels: list[float] | tuple[float, ...]) -> float:
    """The mean of the levels of the bets, rounded once: the same on every Python; 0 without any."""
    return math.fsum(levels) / len(levels) if levels else 0.0


class Stream:
    """An arm while outcomes are folded into it."""

    def __init__(self, arm: Arm, design: Design) -> None:
        self.arm, self.design = arm, design
        self.count, self.total, self.first = arm.count, arm.total, arm.first
        self.evidence, self.runs, self.starts = list(arm.evidence), list(arm.runs), list(arm.starts)
        self.after, self.recent, self.bucket = arm.after, arm.recent, arm.bucket
        self._hold_to(arm.baseline)

    def _hold_to(self, baseline: Baseline) -> None:
        self.n, self.s, self.review_at = baseline.n, baseline.s, baseline.review_at
        self.blocks, self.means, self.squares = baseline.blocks, baseline.means, baseline.squares
        self.learned = baseline.null
        self.null = baseline.null if self.design.known is None else self.design.known
        self.stakes = () if self.null is None else stakes(self.null, self.design.least, self.design.bets)

    def bet(self, null: float) -> list[float]:
        """Bet on the full block; returns the factors L_k by which the bets grow."""
        distance = null - self.total / self.count
        growth = [1.0 + stake * distance for stake in self.stakes]
        if not self.evidence:
            self.evidence, self.runs = [0.0] * len(growth), [0.0] * len(growth)
            self.starts = [self._here()] * len(growth)
        if distance > 0 and min(self.runs) <= 1.0:
            here = self._here()
            starts = zip(self.runs, self.starts, strict=True)
            self.starts = [start if run > 1.0 else here for run, start in starts]
        self.runs = [run * factor if run > 1.0 else factor for run, factor in zip(self.runs, growth, strict=True)]
        self.evidence = [(1.0 + level) * factor for level, factor in zip(self.evidence, growth, strict=True)]
        return growth

    def learn(self) -> None:
        """Add the full block to the baseline."""
        average = self.total / self.count
        self.n += self.count
        self.s += self.total
        self.blocks += 1
        self.means += average
        self.squares += average * average
        if self.n >= self.review_at:
            self._hold_to(self._baseline().reviewed(self.design))

    def put_aside(self) -> None:
        """Count the full block after an alarm, when nothing is learned."""
        self.after = (self.after[0] + self.count, self.after[1] + self.total)

    def turn(self) -> None:
        """Remember the full block in the recent score, and open the next."""
        n, total = self.bucket[0] + self.count, self.bucket[1] + self.total
        if n >= BUCKET:
            self.recent = (*self.recent[1 - WINDOW // BUCKET :], total / n * BUCKET)
            n, total = 0, 0.0
        self.bucket = (n, total)
        self.count, self.total = 0, 0.0

    def _here(self) -> Mark:
        return Mark(self.first, self.n, self.s)

    def _baseline(self) -> Baseline:
        return Baseline(self.n, self.s, self.learned, self.review_at, self.blocks, self.means, self.squares)

    def frozen(self) -> Arm:
        """The arm as it is stored."""
        return Arm(
            baseline=self._baseline(),
            evidence=tuple(self.evidence),
            runs=tuple(self.runs),
            starts=tuple(self.starts),
            count=self.count,
            total=self.total,
            first=self.first,
            after=self.after,
            recent=self.recent,
            bucket=self.bucket,
            floor=self.arm.floor,
        )
