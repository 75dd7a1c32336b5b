"""Idempotency keys: the same request again gets the first answer, and is worked on only once at a time."""

import asyncio
import hashlib
from contextlib import suppress

import msgspec

from experiments.errors import Conflict, KeyReused, RatchetError
from experiments.quantities import SECOND
from server.clock import new_id
from server.ratchet import Ratchet
from server.store.idempotency import Answered, Completion, Fresh, InFlight, OtherBody, release_key, reserve_key

GRACE = 30 * SECOND
"""How much longer than the work may take a key stays reserved for a process that died."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5


class Held(msgspec.Struct, frozen=True):
    """A key reserved for one attempt, which `holder` names."""

    program: str
    key: str
    holder: str

    def completion(self, answer: msgspec.Struct) -> Completion:
        """What is stored with the prediction, in one transaction, so that a retry gets this answer."""
        return Completion(self.program, self.key, self.holder, msgspec.json.encode(answer).decode())


async def hold(ratchet: Ratchet, program: str, key: str, asked: object, patience: int) -> Held | str:
    """The key, reserved; or the answer (JSON) that the same request was given before. Waits for one under way.

    `patience` is how long (µs) the work may take. Raises: KeyReused; Conflict when the other attempt takes longer.
    """
    held = Held(program, key, new_id())
    body_digest = hashlib.sha256(msgspec.json.encode(asked, order="deterministic")).hexdigest()
    clock = asyncio.get_running_loop()
    give_up, pause = clock.time() + patience / SECOND, _FIRST_PAUSE
    while True:
        found = await ratchet.store.write(
            reserve_key,
            program,
            key,
            body_digest=body_digest,
            holder=held.holder,
            now=ratchet.now(),
            lease=patience + GRACE,
        )
        match found:
            case Fresh():
                return held
            case Answered(answer):
                return answer
            case OtherBody():
                raise KeyReused(f"Idempotency-Key {key!r} was used with another body; take a new key for a new request")
            case InFlight() if clock.time() >= give_up:
                raise Conflict(f"the request with Idempotency-Key {key!r} is still being worked on; try again later")
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def let_go(ratchet: Ratchet, held: Held) -> None:
    """Give a key back that got no answer. Where the database is out of reach its lease runs out by itself."""
    with suppress(RatchetError):
        await ratchet.store.write(release_key, held.program, held.key, held.holder)
