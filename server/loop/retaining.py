"""Forgetting personal content once it is older than `RATCHET_RETAIN`. The facts stay, and every decision replays.

Content is what people sent and said, and what compile runs tell of it: instructions that were proposed may quote users.
Those of a variant stay, since they are what is served.
"""

import time

from server.ratchet import Ratchet
from server.store.compiles import purge_runs
from server.store.upkeep import purge_contents

PATIENCE = 2.0
"""Seconds one run may delete for; the next goes on from there."""


async def retain(ratchet: Ratchet) -> int:
    """Delete inputs, outputs, metadata, labels and comments of predictions that are too old, and the events of runs.

    Returns how many rows.
    """
    if ratchet.settings.retain is None:
        return 0
    before, until = ratchet.now() - ratchet.settings.retain, time.monotonic() + PATIENCE
    purged = 0
    for purge in (purge_contents, purge_runs):
        while found := await ratchet.store.write(purge, before):
            purged += found
            if time.monotonic() > until:
                break
    if purged:
        ratchet.log.info("content_purged", rows=purged, older_than=before)
    return purged
