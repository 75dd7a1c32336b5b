"""Whether this process can serve."""

from typing import Literal

import msgspec

from experiments.errors import RatchetError
from experiments.quantities import SECOND
from server.ratchet import Ratchet
from server.store.schema import require_current
from server.store.upkeep import last_finished

TARDY = 3
"""Periods without a decision tick after which something is wrong."""

State = Literal["ok", "failing"]


class ReadinessCheck(msgspec.Struct, frozen=True):
    """One thing that serving needs, and what is wrong with it."""

    name: str
    status: State
    detail: str | None = None


class Readiness(msgspec.Struct, frozen=True):
    """Ok when every check is."""

    status: State
    checks: list[ReadinessCheck]


async def readiness(ratchet: Ratchet) -> Readiness:
    """Ask the database, and look at everything else.

    A late decision tick and a refused definitions file are told too, but do not make this process unready: it serves as
    well without the one, and by the last good definitions.
    """
    journal = ratchet.store.journal.trouble
    programs = "; ".join(f"{name}: {reason}" for name, reason in ratchet.traffic.broken.items()) or None
    database, ticks = await _database(ratchet)
    wrong = {"database": database, "journal": journal, "definitions": programs}
    serving: State = "failing" if any(wrong.values()) else "ok"
    told = {**wrong, "definitions": programs or _refused(ratchet), "ticks": ticks}
    return Readiness(serving, [_check(name, detail) for name, detail in told.items()])


def _refused(ratchet: Ratchet) -> str | None:
    refused = [f"{file} is refused, the last good one is in force: {why}" for file, why in ratchet.refused.items()]
    return "; ".join(refused) or None


async def _database(ratchet: Ratchet) -> tuple[str | None, str | None]:
    """What is wrong with the database and its schema, and with the decision tick."""
    try:
        await ratchet.store.read(require_current)
        ticked = (await ratchet.store.read(last_finished)).get("decide")
    except RatchetError as error:
        return error.detail, None
    if ticked is None:  # a new database, or one without `ratchet work`
        return None, None
    age = ratchet.now() - ticked
    late = f"the last decision tick finished {age / SECOND:.0f}s ago" if age > TARDY * ratchet.settings.tick else None
    return None, late


def _check(name: str, detail: str | None) -> ReadinessCheck:
    return ReadinessCheck(name, "failing" if detail else "ok", detail)
