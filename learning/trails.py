"""How a prediction was made, for whoever traces it: each variant's try, and in it each call of a language model.

A trail is kept only where it is asked for. Its times are those of the process's monotonic clock, in ns
(`time.perf_counter_ns`).
"""

from typing import Any

import msgspec

from experiments.facts import Call


class Exchange(msgspec.Struct, frozen=True):
    """What was said in one call, as DSPy tells it: messages of a role and its content, and the answers to them."""

    messages: list[dict[str, Any]]
    outputs: list[Any]


class LmCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a language model: answered, and then with its bill, or failed with an `error`.

    `model` is the name that was asked, with its provider before the slash; `answered_by` the one the provider gives,
    `finish` why it stopped writing, where it says so. `error` is the name of what was raised. `exchange` is None unless
    the trail keeps content.
    """

    model: str
    began: int
    ended: int
    bill: Call | None = None
    answered_by: str | None = None
    finish: str | None = None
    error: str | None = None
    exchange: Exchange | None = None


class Try(msgspec.Struct, kw_only=True):
    """One variant's attempt at an answer, open until it has `ended`. `error` is the kind of its failure, if it failed.

    `verbatim` says whether what is said in its calls is kept too.
    """

    variant: str
    began: int
    ended: int | None = None
    error: str | None = None
    verbatim: bool = False
    calls: list[LmCall] = []

    def end(self, now: int, error: str | None) -> None:
        """It was given up or answered."""
        self.ended, self.error = now, error


class Trail(msgspec.Struct, kw_only=True):
    """The tries of one prediction, in order; `verbatim` as in `Try`."""

    verbatim: bool = False
    tries: list[Try] = []

    def begin(self, variant: str, now: int) -> Try:
        """A new try."""
        self.tries.append(Try(variant=variant, began=now, verbatim=self.verbatim))
        return self.tries[-1]
