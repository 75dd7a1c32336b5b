"""The learn tick: of every program, put a waiting candidate on trial, and ask for a recompile when it is time for one."""

from experiments.errors import RatchetError, Stale
from server.loop.trialling import put_on_trial
from server.ratchet import Ratchet
from server.traffic import Program


async def learn(ratchet: Ratchet) -> None:
    """Take every program one step on. A failure concerns one program only; the next tick tries it again."""
    for program in ratchet.traffic.programs:
        try:
            await _learn(ratchet, program)
        except Stale as lost:
            ratchet.log.info("learn_tick_overtaken", program=program.name, detail=lost.detail)
        except RatchetError as error:
            ratchet.log.warning("learn_tick_failed", program=program.name, detail=error.detail)
        except Exception:
            ratchet.log.exception("learn_tick_crashed", program=program.name)


async def _learn(ratchet: Ratchet, program: Program) -> None:
    await put_on_trial(ratchet, program)
