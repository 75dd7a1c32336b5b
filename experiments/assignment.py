"""Which variant a unit meets: a hash against the split, and nothing else.

Every arm draws an exponential clock from the hash of (salt, unit, arm); the first to ring gets the unit. With rates
equal to the shares, arm k wins with probability share_k / Σ shares exactly (Efraimidis & Spirakis 2006, *Weighted
random sampling with a reservoir*, key u^(1/w); the same keys are known as weighted rendezvous hashing). An arm's clock
does not depend on the other arms' shares, so when the challengers' shares grow against the champion's, units only ever
move from the champion to a challenger: a ramp never takes a unit out of a challenger, a paused split resumes unchanged,
and no replica needs to know what another one did.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Literal

import msgspec


class Assignment(msgspec.Struct, frozen=True):
    """The variant a unit meets, the probability with which it did, and the experiment this counts in (if any).

    `shadow` is the variant that answers the same request beside it, for comparison only.
    """

    variant: str
    propensity: float
    experiment_id: str | None
    shadow: str | None = None


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """One program's traffic rule in force: an *epoch*. Every change of a split is a new one, numbered from 1.

    `split` is empty when the champion serves everything. While an experiment is `paused`, or has had its full number of
    units (`full`), the champion serves everything and nothing counts, but the split is kept for the resume. `holdback`
    is the split between a promoted variant, by then the champion, and the former one. With `pairs` the split only draws
    the requests that the challenger answers too: the champion serves all. `covariates` are the keys of the metadata
    whose values the experiment wants kept.
    """

    program: str
    epoch: int
    champion: str
    experiment_id: str | None = None
    split: dict[str, float] = {}
    randomize: Literal["unit", "request"] = "unit"
    pairs: bool = False
    covariates: tuple[str, ...] = ()
    state: Literal["open", "paused", "full", "holdback"] = "open"
    reason: str
    created_at: int

    @property
    def live(self) -> bool:
        """Whether predictions are being assigned by the split right now."""
        return self.experiment_id is not None and self.state in ("open", "holdback")

    @property
    def running(self) -> str | None:
        """The experiment that runs or is paused; None during a holdback, whose experiment is concluded."""
        return None if self.state == "holdback" else self.experiment_id

    @property
    def salt(self) -> str:
        """What units are drawn with: the experiment's id, and for a holdback the id of its own evidence.

        A holdback tosses anew. The coins of the experiment are known by then, and so is what came of them; whom they
        gave to the former champion is no fresh evidence about it.
        """
        identity = self.experiment_id or ""
        return holdback_id(identity, self.epoch) if self.state == "holdback" else identity


def holdback_id(experiment_id: str, epoch: int) -> str:
    """Under which the evidence of a holdback is kept: its experiment and the epoch from which its predictions count."""
    return f"{experiment_id}@{epoch}"


def predictions_of(evidence_id: str) -> tuple[str, int]:
    """The experiment whose predictions make up this evidence, and the first epoch of which they do.

    >>> predictions_of(holdback_id("e1", 17)), predictions_of("e1")
    (('e1', 17), ('e1', 0))
    """
    experiment_id, _, epoch = evidence_id.partition("@")
    return experiment_id, int(epoch or 0)


def route(routing: Routing, unit: str) -> Assignment:
    """The assignment of `unit` (the prediction itself under `randomize: request`) by the rule in force."""
    if not routing.live or routing.experiment_id is None:
        return Assignment(routing.champion, 1.0, None)
    variant = draw(routing.salt, unit, routing.split)
    if routing.pairs:
        shadow = None if variant == routing.champion else variant
        return Assignment(routing.champion, 1.0, routing.experiment_id if shadow else None, shadow)
    return Assignment(variant, routing.split[variant], routing.experiment_id)


def draw(salt: str, unit: str, split: Mapping[str, float]) -> str:
    """The arm whose exponential clock rings first; `split` maps arms to shares, at least one of them above 0.

    Test vectors, fixed for ever (a change here re-randomises every running experiment):

    >>> [draw("salt", f"user-{i}", {"base": 0.5, "new": 0.5}) for i in range(6)]
    ['new', 'base', 'new', 'base', 'base', 'new']
    >>> [draw("salt", f"user-{i}", {"base": 0.9, "new": 0.1}) for i in range(6)]
    ['base', 'base', 'new', 'base', 'base', 'base']
    >>> f"{uniform('salt', 'user-0', 'base'):.17f}"
    '0.03136453586693672'
    """
    return min(
        (arm for arm, share in split.items() if share > 0),
        key=lambda arm: (-math.log(uniform(salt, unit, arm)) / split[arm], arm),
    )


def uniform(salt: str, unit: str, arm: str) -> float:
    """A number in (0, 1): the first 53 bits of SHA-256 of length-prefixed salt, unit and arm, centred in their cell.

    Length prefixes keep ("ab", "c") and ("a", "bc") apart. `unit` may hold any text, lone surrogates included.
    """
    digest = hashlib.sha256()
    for part in (salt, unit, arm):
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    bits = int.from_bytes(digest.digest()[:8], "big") >> 11
    return (bits + 0.5) / 2**53
