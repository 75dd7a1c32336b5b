"""Tickets of the simulated support desk, with the category each truly belongs to."""

from typing import Any

from learning.engines.triage import ticket

SEED = 7
SHIFT = 0.7
"""Share of tickets about the new product, once it is there."""


def case(index: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The input and the true label of ticket number `index`."""
    return _case(index, 0.0)


def shifted(index: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same after the new product came out."""
    return _case(index, SHIFT)


def _case(index: int, shift: float) -> tuple[dict[str, Any], dict[str, Any]]:
    drawn = ticket(SEED, index, shift=shift)
    return {"ticket": drawn.text}, {"category": drawn.label}
