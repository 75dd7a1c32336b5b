"""The learn tick: every program's waiting candidate is put on trial, and a recompile is asked for when it is time.

What was planned last is kept with its reason, so that anybody can be told why nothing happens.
"""

import msgspec

from experiments.errors import Conflict, Invalid, Stale
from experiments.quantities import SECOND
from learning.cycle import Compile, plan
from server.loop.requesting import begin
from server.loop.situations import situation_of
from server.loop.trialling import put_on_trial
from server.ratchet import Ratchet
from server.store import Connection
from server.store.upkeep import put_setting, setting, settings_like
from server.traffic import Program
from server.trials.ticking import each_program

RETRY = 600 * SECOND
"""How long a run that could not succeed is not prepared again, in µs: it takes reading everything there is to learn."""
_KEY = "learning:"


class Outlook(msgspec.Struct, frozen=True):
    """What is to be expected of a program's learning, and until when (µs) that stands by itself."""

    reason: str
    until: int = 0


async def learn(ratchet: Ratchet) -> None:
    """Take every program one step on. A failure concerns one program only; the next tick tries it again."""
    await each_program(ratchet, _learn, "learn_tick")


async def _learn(ratchet: Ratchet, program: Program) -> None:
    await put_on_trial(ratchet, program)
    await _recompile(ratchet, program)


async def _recompile(ratchet: Ratchet, program: Program) -> None:
    """Ask for a run if the plan says so, and keep what there is to say about it."""
    now, options = ratchet.now(), program.definition.learning
    before = await ratchet.store.read(outlook, program.name)
    planned = plan(await ratchet.store.read(situation_of, program.name, program.definition, now), options, now)
    if not isinstance(planned, Compile):
        after = Outlook(planned.reason)
    elif before is not None and now < before.until:
        return
    else:
        after = await _begun(ratchet, program, planned, now)
    if after != before:
        await ratchet.store.write(put_setting, _KEY + program.name, msgspec.json.encode(after).decode())


async def _begun(ratchet: Ratchet, program: Program, planned: Compile, now: int) -> Outlook:
    try:
        run = await begin(ratchet, program, program.definition.learning, planned)
    except Stale:
        raise
    except (Conflict, Invalid) as refused:
        ratchet.log.warning("compile_refused", program=program.name, reason=planned.reason, detail=refused.detail)
        return Outlook(f"{planned.reason}, and refused: {refused.detail}", now + RETRY)
    return Outlook(f"{planned.reason}: run {run.compile_id} was asked for")


def outlook(conn: Connection, program: str) -> Outlook | None:
    """What was planned last for a program; None before its first learn tick."""
    written = setting(conn, _KEY + program)
    return msgspec.json.decode(written, type=Outlook) if written else None


def outlooks(conn: Connection) -> dict[str, str]:
    """The reason of every program's latest plan."""
    found = settings_like(conn, _KEY)
    return {name: msgspec.json.decode(written, type=Outlook).reason for name, written in found.items()}
