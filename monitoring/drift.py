"""Has it become worse? A detector that bets, block by block, against "as good as its baseline".

The mixture Shiryaev-Roberts e-detector of Shin, Ramdas & Rinaldo (doi 10.51387/23-NEJSDS51) on bounded bets
(Waudby-Smith & Ramdas 2010.09686). With ȳ the mean of B outcomes in a row, each in [0, 1] and 1 the best, m the null
score (`baseline`) and λ_k a fixed grid of K stakes,

    L_k = 1 + λ_k (m − ȳ)        R_k = (1 + R_k) L_k        D = mean_k R_k        alarm when D ≥ A/B

While E[ȳ | past] ≥ m every L_k expects to be 1 at most, so D less the number of blocks is a supermartingale: the mean
number of outcomes to a false alarm is at least A, and within n of them one is raised with probability n/A at most.
For 0/1 outcomes and B = 1, λ = (m − p)/(m(1 − m)) makes L the likelihood ratio of p against m.

Several arms share one promise. Each has its own baseline and its own R, and beside them runs one stream over all
blocks, in which each block is bet on against its own arm's null ("aware"):

    D = ½ Σ_arms mean_k R_k + ½ mean_k R_k^aware

The first half finds the fall of one arm, the second that of all, and moving traffic from one arm to another moves
neither. With one arm both are the same. The alarm is latched: until somebody acts nothing is bet and nothing learned.

The change point is the last zero of the CUSUM of ln L_k, for the bet k that has won most.
"""

import math
from collections.abc import Iterable, Mapping

import msgspec

from monitoring.arms import Arm, Stream, known_by, mean
from monitoring.design import Design

Outcome = tuple[str, int, float]
"""The arm, the time of the prediction in µs, and the score in [0, 1], 1 being the best."""


class Alarm(msgspec.Struct, frozen=True):
    """Raised by the outcome of `at`; `arm` has fallen (None: all have) since `change_point`. `level` is D."""

    at: int
    arm: str | None
    change_point: int
    level: float


class Detector(msgspec.Struct, frozen=True):
    """One signal of one program. `aware` is None while only one arm has been bet on: it would say the same."""

    arms: dict[str, Arm] = {}
    aware: tuple[float, ...] | None = None
    alarm: Alarm | None = None

    def fold(
        self, design: Design, outcomes: Iterable[Outcome], newcomers: Mapping[str, Arm] | None = None
    ) -> "Detector":
        """The detector after more outcomes, in the order of their predictions.

        An arm that is new begins as in `newcomers`, or with nothing. How the outcomes are divided into calls makes no
        difference, bit for bit.
        """
        folding = _Folding(self, design, newcomers or {})
        streams, size = folding.streams, design.block
        for name, at, y in outcomes:
            stream = streams.get(name) or folding.enter(name)
            if not stream.count:
                stream.first = at
            stream.count += 1
            stream.total += y
            if stream.count >= size:
                folding.close(name, stream, at)
        return folding.frozen()

    def level(self, name: str | None = None) -> float:
        """D; of one arm, what it would be without the evidence against the others alone."""
        own = math.fsum(arm.level for known, arm in self.arms.items() if name in (None, known))
        return own if self.aware is None else 0.5 * own + 0.5 * mean(self.aware)

    def evidence_ratio(self, design: Design, name: str | None = None) -> float:
        """How far the level has come, on the log scale: 0 at the start, 1 at the alarm."""
        return math.log(max(self.level(name), 1.0)) / math.log(design.threshold)

    def acknowledged(self, design: Design) -> "Detector":
        """No alarm and no evidence; the arms it was about are held to what they have done since the change point."""
        if self.alarm is None:
            return self
        fallen = self.alarm.arm
        return Detector(
            {name: arm.rebased(design) if fallen in (None, name) else arm.cleared() for name, arm in self.arms.items()}
        )

    def without(self, name: str) -> "Detector":
        """The detector without an arm, and without the alarm if it was about that arm alone.

        Taking evidence away never breaks the promise.
        """
        rest = {known: arm for known, arm in self.arms.items() if known != name}
        if self.alarm and self.alarm.arm == name:
            return Detector({known: arm.cleared() for known, arm in rest.items()})
        return Detector(rest, self.aware, self.alarm)


def begin(design: Design, priors: Mapping[str, tuple[int, float]]) -> Detector:
    """No evidence yet. `priors` are number and sum of the outcomes that arms are known by. Raises: ValueError."""
    return Detector({name: known_by(design, n, s) for name, (n, s) in priors.items()})


class _Folding:
    """A detector while outcomes are folded into it: mutable, and never seen outside."""

    def __init__(self, detector: Detector, design: Design, newcomers: Mapping[str, Arm]) -> None:
        self.design, self.newcomers = design, newcomers
        self.streams = {name: Stream(arm, design) for name, arm in detector.arms.items()}
        self.levels = {name: arm.level for name, arm in detector.arms.items()}
        self.aware = None if detector.aware is None else list(detector.aware)
        self.alarm = detector.alarm

    def enter(self, name: str) -> Stream:
        """Begin with a new arm."""
        self.streams[name] = Stream(self.newcomers.get(name, Arm()), self.design)
        self.levels[name] = 0.0
        return self.streams[name]

    def close(self, name: str, stream: Stream, at: int) -> None:
        """Bet on a full block, then learn from it."""
        if self.alarm is None and stream.null is not None:
            self._bet(name, stream, stream.null, at)
        if self.alarm is None:
            stream.learn()
        else:
            stream.put_aside()
        stream.turn()

    def _bet(self, name: str, stream: Stream, null: float, at: int) -> None:
        if self.aware is None and len(self.streams) > 1:
            self._part_from(stream)
        growth = stream.bet(null)
        self.levels[name] = level = mean(stream.evidence)
        if self.aware is not None:
            self.aware = [(1.0 + each) * factor for each, factor in zip(self.aware, growth, strict=True)]
            level = 0.5 * math.fsum(self.levels.values()) + 0.5 * mean(self.aware)
        if level >= self.design.threshold:
            self._raise(at, level)

    def _part_from(self, stream: Stream) -> None:
        """From the first bet on a second arm on, the stream over all arms is one of its own."""
        for other in self.streams.values():
            if other is not stream and other.evidence:
                self.aware = list(other.evidence)

    def _raise(self, at: int, level: float) -> None:
        loudest = max(self.levels, key=self.levels.__getitem__)
        since = self.streams[loudest].frozen().suspect
        together = self.aware is not None and mean(self.aware) >= math.fsum(self.levels.values())
        self.alarm = Alarm(
            at=at, arm=None if together else loudest, change_point=at if since is None else since.at, level=level
        )

    def frozen(self) -> Detector:
        aware = None if self.aware is None else tuple(self.aware)
        return Detector({name: stream.frozen() for name, stream in self.streams.items()}, aware, self.alarm)
