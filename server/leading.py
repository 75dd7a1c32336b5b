"""Who leads: of all processes that work on a database one holds the lease and acts, the others stand by.

The leader's writes carry the token of its lease (`Store.under`). One that was suspended, or cut off for longer than its
lease, cannot change anything once another has taken over, whatever it still believes.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec

from experiments.errors import RatchetError
from experiments.quantities import SECOND
from server.ratchet import Ratchet
from server.store import Connection
from server.store.leases import LEADER, Lease, release_lease, renew_lease, take_lease


class Leadership:
    """One process's part in it. `look` takes the lease or keeps it; `acting` is what acts by it while it lasts."""

    def __init__(self, ratchet: Ratchet) -> None:
        self._ratchet = ratchet
        self._ttl = ratchet.settings.lease
        self._holder = f"{socket.gethostname()}/{os.getpid()}"
        self._lease: Lease | None = None
        self._until = 0.0

    @property
    def acting(self) -> Ratchet | None:
        """This process's parts, every write under its lease; None while it does not lead."""
        if self._lease is None or time.monotonic() >= self._until:
            return None
        return msgspec.structs.replace(self._ratchet, store=self._ratchet.store.under(self._lease))

    async def look(self) -> None:
        """Take the lease if it is free, keep it if it is ours, and find out if it is not ours any more."""
        before, asked = self._lease, time.monotonic()
        self._tell()  # first of all: this process may have been suspended since it looked last
        try:
            async with asyncio.timeout(self._pause):
                self._lease = await self._ratchet.store.write(self._stand)
            self._until = asked + self._ttl / SECOND
        except (RatchetError, TimeoutError) as error:
            self._ratchet.log.warning("lease_not_renewed", detail=str(error) or "the database did not answer in time")
        except Exception:
            self._ratchet.log.exception("lease_not_looked_at")
        self._tell()
        if self._lease != before:
            event = "leadership_taken" if self._lease else "leadership_lost"
            self._ratchet.log.info(event, holder=self._holder, fence=(self._lease or before).fence)  # type: ignore[union-attr]  # they differ: one is there

    async def resign(self) -> None:
        """Let go of the lease, so that another process need not wait until it runs out."""
        lease, self._lease = self._lease, None
        self._tell()
        if lease is not None:
            with suppress(RatchetError, TimeoutError):
                async with asyncio.timeout(self._pause):
                    await self._ratchet.store.write(release_lease, lease)

    async def stand(self) -> None:
        """Look for ever, three times within the life of a lease."""
        while True:
            await asyncio.sleep(self._pause)
            await self.look()

    @property
    def _pause(self) -> float:
        return self._ttl / SECOND / 3

    def _stand(self, conn: Connection) -> Lease | None:
        if self._lease is not None and renew_lease(conn, self._lease, self._ttl):
            return self._lease
        return take_lease(conn, LEADER, self._holder, self._ttl, alone=self._ratchet.settings.embedded)

    def _tell(self) -> None:
        self._ratchet.metrics.led(self.acting is not None)


@asynccontextmanager
async def standing(ratchet: Ratchet) -> AsyncIterator[Leadership]:
    """Stand for leader until the end of the block."""
    leadership = Leadership(ratchet)
    await leadership.look()
    task = asyncio.create_task(leadership.stand())
    try:
        yield leadership
    finally:
        task.cancel()
        await asyncio.wait([task])
        await leadership.resign()
