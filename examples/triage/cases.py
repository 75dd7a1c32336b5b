"""Tickets of the simulated support desk, with the category each truly belongs to."""

from typing import Any

from learning.engines.triage import ticket

SEED = 7


def case(index: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The input and the true label of ticket number `index`."""
    drawn = ticket(SEED, index)
    return {"ticket": drawn.text}, {"category": drawn.label}
