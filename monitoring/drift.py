"""Has it become worse? A detector that bets, block by block, against "as good as its baseline".

The mixture Shiryaev-Roberts e-detector of Shin, Ramdas & Rinaldo (doi 10.51387/23-NEJSDS51) on bounded bets
(Waudby-Smith & Ramdas 2010.09686). With ȳ the mean of B outcomes in a row, each in [0, 1] with 1 as the best, m the null
score (`baseline`) and λ_k a fixed grid of K bets,

    L_k = 1 + λ_k (m − ȳ)        R_k = (1 + R_k) L_k        D = mean_k R_k        alarm when D ≥ A/B

While E[ȳ | past] ≥ m each L_k expects to be 1 at most, so D less the number of blocks is a supermartingale: the mean
number of outcomes to a false alarm is A at least, and within n of them one is raised with probability n/A at most.
For 0/1 outcomes and B = 1, λ = (m − p)/(m(1 − m)) makes L the likelihood ratio of p against m.

Several arms share one promise. Each arm has its own baseline and its own R, and beside them runs one stream over all
blocks in which each is bet on against its own arm's null ("aware"):

    D = ½ Σ_arms mean_k R_k + ½ mean_k R_k^aware

The first half finds the fall of one arm, the second that of all, and moving traffic from one arm to another moves
neither. With one arm both are the same. The alarm is latched, and with it everything stands still until somebody acts.

The change point is the last zero of the CUSUM of ln L_k, where k is the bet that has won most.
"""

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Literal

import msgspec

from monitoring.baseline import RANGE, Baseline

Profile = Literal["default", "sensitive"]
WINDOW = 500
"""Outcomes that the recent score is about; known to within a bucket."""
_BUCKET = 50
MOST_ARMS = 8
"""Beyond these the arm that has been silent longest is forgotten. Taking evidence away never breaks the promise."""
_BOLDEST = 0.9
"""The most that a bet may lose on one block."""


class Design(msgspec.Struct, frozen=True, kw_only=True):
    """How a stream is watched.

    `run_length` is A, in outcomes; `block` is B, long enough that blocks are independent; `tolerated` is the fall that
    may go unnoticed, `least` the smallest that is bet on; `z` says how certain a baseline must be, and `min_outcomes` on
    how much it must rest. A `known` null is not learned, and never moves.
    """

    run_length: float
    block: int = 5
    tolerated: float = 0.02
    z: float = 2.5
    least: float = 0.03
    bets: int = 12
    min_outcomes: int = 300
    known: float | None = None

    def __post_init__(self) -> None:
        if not self.block < self.run_length < math.inf:
            raise ValueError(f"run_length: {self.run_length!r} outcomes are not more than one block of {self.block}")
        if self.block < 1 or self.bets < 2 or self.min_outcomes < 1:
            raise ValueError("block and min_outcomes are at least 1, bets at least 2")
        if not (0 <= self.tolerated < 1 and 0 < self.least < 1 and self.z >= 0):
            raise ValueError("tolerated lies in [0, 1), least in (0, 1), and z is at least 0")
        if self.known is not None and not RANGE[0] <= self.known <= RANGE[1]:
            raise ValueError(f"known: {self.known!r} is not between {RANGE[0]} and {RANGE[1]}")

    @property
    def threshold(self) -> float:
        """The D at which the alarm is raised."""
        return self.run_length / self.block


def design(profile: Profile, *, run_length: float, tolerated: float = 0.02, min_outcomes: int = 300) -> Design:
    """The design of a profile. `sensitive` is for outcomes that are independent, and tolerates nothing."""
    if profile == "sensitive":
        return Design(run_length=run_length, block=1, tolerated=0.0, z=2.0, min_outcomes=min_outcomes)
    return Design(run_length=run_length, tolerated=tolerated, min_outcomes=min_outcomes)


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """A place in an arm's stream: the time of the outcome that comes next, and the number and sum of those before."""

    at: int
    n: int
    s: float


class Arm(msgspec.Struct, frozen=True):
    """One arm's part of a detector.

    `evidence` holds R_k, `runs` the capital of the bets since their `starts`, all empty until the first bet. The open
    block has `count` outcomes with the sum `total`, the first of them from `first`. `after` counts and sums outcomes
    since the alarm. `recent` holds the sums of the last full buckets of outcomes, `bucket` the number and sum in the
    one being filled. `seen` is the time of the last closed block. `floor` is the null given up by an acknowledgement.
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
    seen: int = 0
    floor: float | None = None

    @property
    def outcomes(self) -> int:
        """All outcomes that were seen, or that the baseline began with."""
        return self.baseline.n + self.count + self.after[0]

    @property
    def score(self) -> float | None:
        """The mean of the last `WINDOW` outcomes in closed blocks, None without any."""
        n = self.bucket[0] + _BUCKET * len(self.recent)
        return (self.bucket[1] + math.fsum(self.recent)) / n if n else None

    @property
    def level(self) -> float:
        """The mean of R over the bets; 0 before the first bet."""
        return _mean(self.evidence)

    @property
    def suspect(self) -> Mark | None:
        """Where the change began if there was one, by the bet that has won most."""
        return max(zip(self.evidence, self.starts, strict=True))[1] if self.evidence else None


class Alarm(msgspec.Struct, frozen=True):
    """Raised by the outcome of `at`; `arm` has fallen (None: all have), since `change_point`. `level` is D."""

    at: int
    arm: str | None
    change_point: int
    level: float


class Detector(msgspec.Struct, frozen=True):
    """One signal of one program. `aware` is None while only one arm has been bet on: it would say the same."""

    arms: dict[str, Arm] = {}
    aware: tuple[float, ...] | None = None
    alarm: Alarm | None = None

    def fold(self, design: Design, outcomes: Iterable[tuple[str, int, float]]) -> "Detector":
        """The detector after more outcomes, (arm, time in µs, score in [0, 1]) each, in the order of their predictions.

        How a stream is cut into calls makes no difference, bit for bit.
        """
        folding = _Folding(self, design)
        streams, size = folding.streams, design.block
        for arm, at, y in outcomes:
            stream = streams.get(arm) or folding.enter(arm)
            if not stream.count:
                stream.first = at
            stream.count += 1
            stream.total += y
            if stream.count >= size:
                folding.close(arm, stream, at)
        return folding.frozen()

    def level(self, arm: str | None = None) -> float:
        """D; of one arm its own part, as if it were alone."""
        own = math.fsum(each.level for name, each in self.arms.items() if arm in (None, name))
        return own if self.aware is None else 0.5 * own + 0.5 * _mean(self.aware)

    def evidence_ratio(self, design: Design, arm: str | None = None) -> float:
        """How far D has come, on the log scale: 0 at the start, 1 at the alarm."""
        return math.log(max(self.level(arm), 1.0)) / math.log(design.threshold)

    def acknowledged(self, design: Design) -> "Detector":
        """The alarm is taken back, and each arm held to what it has done since the change point; R begins at 0."""
        return Detector({name: _rebased(arm, design) for name, arm in self.arms.items()}) if self.alarm else self


def begin(design: Design, priors: Mapping[str, tuple[int, float]] | None = None) -> Detector:
    """No evidence yet. `priors` are number and sum of outcomes that arms are known by. Raises: ValueError."""
    return Detector({name: started(design, n, s) for name, (n, s) in (priors or {}).items()})


def started(design: Design, n: int, s: float) -> Arm:
    """An arm that is known by `n` outcomes with the sum `s` and has no evidence against it."""
    return Arm(baseline=_reviewed(Baseline(n, s), design))


@lru_cache(maxsize=4096)
def grid(null: float, least: float, bets: int) -> tuple[float, ...]:
    """The λ_k against a null m: geometric, from a fall by `least` of a 0/1 score to the boldest there may be."""
    boldest = _BOLDEST / (1 - null)
    meekest = min(least / (null * (1 - null)), boldest / 2)
    return tuple(meekest * (boldest / meekest) ** (k / (bets - 1)) for k in range(bets))


def _mean(levels: Iterable[float]) -> float:
    listed = tuple(levels)
    return math.fsum(listed) / len(listed) if listed else 0.0


def _reviewed(baseline: Baseline, design: Design) -> Baseline:
    return baseline.reviewed(design.block, tolerated=design.tolerated, z=design.z, least=design.min_outcomes)


def _rebased(arm: Arm, design: Design) -> Arm:
    n, s = arm.after
    if (since := arm.suspect) is not None:
        n, s = n + arm.baseline.n - since.n, s + max(0.0, arm.baseline.s - since.s)
    return msgspec.structs.replace(
        arm,
        baseline=_reviewed(Baseline(n, min(s, float(n))), design),
        evidence=(),
        runs=(),
        starts=(),
        after=(0, 0.0),
        floor=arm.baseline.null if arm.floor is None else max(arm.floor, arm.baseline.null or 0.0),
    )


class _Stream:
    """An arm while outcomes are folded into it."""

    __slots__ = ("after", "arm", "baseline", "bets", "bucket", "count", "evidence", "first", "null", "recent", "runs",
                 "seen", "starts", "total")  # fmt: skip

    def __init__(self, arm: Arm, design: Design) -> None:
        self.arm = arm
        self.count, self.total, self.first = arm.count, arm.total, arm.first
        self.evidence, self.runs, self.starts = list(arm.evidence), list(arm.runs), list(arm.starts)
        self.after, self.recent, self.bucket, self.seen = arm.after, arm.recent, arm.bucket, arm.seen
        self.hold_to(arm.baseline, design)

    def hold_to(self, baseline: Baseline, design: Design) -> None:
        self.baseline = baseline
        self.null = baseline.null if design.known is None else design.known
        self.bets = () if self.null is None else grid(self.null, design.least, design.bets)

    def frozen(self) -> Arm:
        return Arm(
            baseline=self.baseline,
            evidence=tuple(self.evidence),
            runs=tuple(self.runs),
            starts=tuple(self.starts),
            count=self.count,
            total=self.total,
            first=self.first,
            after=self.after,
            recent=self.recent,
            bucket=self.bucket,
            seen=self.seen,
            floor=self.arm.floor,
        )

    def bet(self, null: float, mean: float) -> list[float]:
        """Stake every bet on a block with this mean; returns the growth factors L_k."""
        distance = null - mean
        growth = [1.0 + bet * distance for bet in self.bets]
        if not self.evidence:
            self.evidence, self.runs = [0.0] * len(growth), [0.0] * len(growth)
            self.starts = [self.mark()] * len(growth)
        self.evidence = [(1.0 + level) * factor for level, factor in zip(self.evidence, growth, strict=True)]
        runs, mark = self.runs, None
        for k, factor in enumerate(growth):
            if runs[k] > 1.0:
                runs[k] *= factor
            else:  # at zero: if there is a change, it begins with this block
                runs[k] = factor
                if mark is None:
                    mark = self.mark()
                self.starts[k] = mark
        return growth

    def mark(self) -> Mark:
        return Mark(self.first, self.baseline.n, self.baseline.s)

    def remember(self) -> None:
        """Add the closed block to what the recent score is made of."""
        n, total = self.bucket[0] + self.count, self.bucket[1] + self.total
        if n >= _BUCKET:
            self.recent = (*self.recent[1 - WINDOW // _BUCKET :], total / n * _BUCKET)
            n, total = 0, 0.0
        self.bucket = (n, total)


class _Folding:
    """A detector while outcomes are folded into it: mutable, and never seen outside."""

    def __init__(self, detector: Detector, design: Design) -> None:
        self.design = design
        self.streams = {name: _Stream(arm, design) for name, arm in detector.arms.items()}
        self.levels = {name: arm.level for name, arm in detector.arms.items()}
        self.aware = None if detector.aware is None else list(detector.aware)
        self.alarm = detector.alarm

    def enter(self, name: str) -> _Stream:
        """A new arm; the one that has been silent longest makes room."""
        if len(self.streams) >= MOST_ARMS:
            silent = min(self.streams, key=lambda known: self.streams[known].seen)
            del self.streams[silent], self.levels[silent]
        self.streams[name] = _Stream(Arm(), self.design)
        self.levels[name] = 0.0
        return self.streams[name]

    def close(self, name: str, stream: _Stream, at: int) -> None:
        """Bet on a full block, and then learn from it."""
        design = self.design
        if stream.null is not None and self.alarm is None:
            self.bet(name, stream, stream.null, at)
        if self.alarm is None:
            baseline = stream.baseline.absorb(
                stream.count, stream.total, tolerated=design.tolerated, z=design.z, least=design.min_outcomes
            )
            if baseline.null != stream.baseline.null:
                stream.hold_to(baseline, design)
            else:
                stream.baseline = baseline
        else:
            stream.after = (stream.after[0] + stream.count, stream.after[1] + stream.total)
        stream.remember()
        stream.count, stream.total, stream.seen = 0, 0.0, at

    def bet(self, name: str, stream: _Stream, null: float, at: int) -> None:
        if self.aware is None and len(self.streams) > 1:
            self.part(stream)
        growth = stream.bet(null, stream.total / stream.count)
        self.levels[name] = level = math.fsum(stream.evidence) / len(growth)
        shared = level
        if self.aware is not None:
            self.aware = [(1.0 + each) * factor for each, factor in zip(self.aware, growth, strict=True)]
            shared = math.fsum(self.aware) / len(growth)
            own = math.fsum(self.levels.values())
            level = 0.5 * own + 0.5 * shared
        if level >= self.design.threshold:
            self.raise_alarm(at, level, shared)

    def part(self, stream: _Stream) -> None:
        """A second arm is about to be bet on: from here on "all arms" is a stream of its own."""
        for other in self.streams.values():
            if other is not stream and other.evidence:
                self.aware = list(other.evidence)

    def raise_alarm(self, at: int, level: float, shared: float) -> None:
        blamed = max(self.levels, key=self.levels.__getitem__)
        since = self.streams[blamed].frozen().suspect
        together = self.aware is not None and shared >= math.fsum(self.levels.values())
        change_point = at if since is None else since.at
        self.alarm = Alarm(at=at, arm=None if together else blamed, change_point=change_point, level=level)

    def frozen(self) -> Detector:
        aware = None if self.aware is None else tuple(self.aware)
        return Detector({name: stream.frozen() for name, stream in self.streams.items()}, aware, self.alarm)
