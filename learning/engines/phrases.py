"""The simulated reflection model `sim/phrases`: it proposes instructions from a pool that its options hold.

It reflects on nothing. It stands in where no model that can is at hand, so that everything around it is real: an
optimiser asks for a better instruction, gets one of the pool's, and measures whether it is.
"""

from typing import Any

import msgspec
from dspy.lm15 import Request

from learning.engines.triage import Draw


class Phrases(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The pool. Which phrase comes next depends on `seed` and on the request alone."""

    phrases: tuple[str, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        if len(set(self.phrases)) < 2:
            raise ValueError("phrases holds at least two different instructions")

    def propose(self, request: Request, current: str) -> Any:
        """A phrase of the pool that is not the current instruction."""
        others = [phrase for phrase in self.phrases if phrase.strip() != current.strip()]
        return Draw(self.seed, request.messages[-1].text or "").pick(others)
