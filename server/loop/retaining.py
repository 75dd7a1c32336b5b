"""Forgetting personal content once it is older than `RATCHET_RETAIN`. The facts stay, and every decision replays."""

import time

from server.ratchet import Ratchet
from server.store.upkeep import purge_contents

PATIENCE = 2.0
"""Seconds one run may delete for; the next goes on from there."""


async def retain(ratchet: Ratchet) -> int:
    """Delete inputs, outputs, metadata, labels and comments of predictions that are too old; returns how many rows."""
    if ratchet.settings.retain is None:
        return 0
    before, until = ratchet.now() - ratchet.settings.retain, time.monotonic() + PATIENCE
    purged = 0
    while (found := await ratchet.store.write(purge_contents, before)) and time.monotonic() < until:
        purged += found
    if purged:
        ratchet.log.info("content_purged", rows=purged, older_than=before)
    return purged
