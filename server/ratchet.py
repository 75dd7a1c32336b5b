"""What a running process is made of. Made once, by `server/app.py: opened`, and handed to everything that acts."""

from collections.abc import Callable

import msgspec
from structlog.typing import FilteringBoundLogger

from learning.running import Runner
from monitoring.metrics import Metrics
from server.auth import Keyring
from server.settings import Settings
from server.store import Store
from server.tracing.tracing import Tracing
from server.traffic import Traffic


class Ratchet(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One process's parts. `now` is the clock in µs: `server.clock.now`, or a test's own.

    In a route: `ratchet: NamedDependency[Ratchet]`. After a write that changes programs, variants or routings, call
    `await ratchet.traffic.refresh()`: this process then serves by it at once, the others within a second.
    `refused` holds the definitions files that could not be put in force, each with what is wrong with it now.
    """

    settings: Settings
    store: Store
    keys: Keyring
    traffic: Traffic
    runner: Runner
    metrics: Metrics
    tracing: Tracing
    log: FilteringBoundLogger
    now: Callable[[], int]
    refused: dict[str, str] = {}
