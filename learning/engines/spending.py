"""What a compile run may still use, asked before every call: money, time, metric calls, and patience with failures.

A call is admitted once the most it can cost fits beside what is spent and what other threads have under way; where only
those stand in its way it waits for them. From the moment the run is stopped no call is admitted, so that an optimizer,
whatever it does about failing calls, comes to its end within moments and for nothing.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from experiments.quantities import SECOND, dollars
from learning.engines.ledger import Ledger, Role

RECENT = 50
"""Calls of an LM among which failures are counted."""
TOLERATED = 0.2
"""Share of an LM's recent calls that may fail, after their retries, before scores mean nothing."""
IN_A_ROW: dict[Role, int] = {"student": 8, "reflection": 3}
"""Failures of an LM one after the other that mean it is down."""

_PATIENCE = 0.5
"""Seconds after which a waiting call looks at the clock again."""

StopKind = Literal["budget", "enough", "void", "cancelled", "broken"]


class Stop(msgspec.Struct, frozen=True):
    """Why no further call is made. `enough`: there is nothing to find; `broken`: this machine failed."""

    kind: StopKind
    reason: str


class Spending:
    """The run's means. `limit` is in picodollars (None: no bound), `time` in µs of work over all attempts.

    `earlier` was paid where the ledger does not know of it. `kept_back` and `kept_time` are for what follows the
    optimizer, and are released by `resume`. `paid` adds up what answers cost, also those that an earlier
    attempt got; `failed` counts calls that failed for good, `fault` is the latest such failure.
    """

    def __init__(self, ledger: Ledger, *, limit: int | None, time: int, earlier: int, clock: Callable[[], int]) -> None:
        self.ledger = ledger
        self.kept_back = self.kept_time = 0
        self.paid: dict[Role, int] = {"student": 0, "reflection": 0}
        self.failed: dict[Role, int] = {"student": 0, "reflection": 0}
        self.fault: str | None = None
        self._limit = limit
        self._time = time
        self._earlier = earlier
        self._clock = clock
        self._began = clock() - ledger.elapsed
        self._reserved = 0
        self._stop: Stop | None = None
        self._changed = threading.Condition()
        self._recent: dict[Role, deque[bool]] = {role: deque(maxlen=RECENT) for role in IN_A_ROW}

    @property
    def spent(self) -> int:
        """Picodollars paid for this run so far."""
        return self._earlier + self.ledger.spent

    @property
    def worked(self) -> int:
        """Microseconds of work so far, over all attempts."""
        return self._clock() - self._began

    @property
    def stopped(self) -> Stop | None:
        """Why no call is admitted any more."""
        return self._stop

    @property
    def left(self) -> int | None:
        """Picodollars that may still be spent, what is kept back included."""
        return None if self._limit is None else max(0, self._limit - self.spent)

    def stop(self, kind: StopKind, reason: str) -> None:
        """No call is admitted from now on. The first reason stands, unless the run is cancelled or its disk full."""
        with self._changed:
            if self._stop is None or kind in ("cancelled", "broken"):
                self._stop = Stop(kind, reason)
            self._changed.notify_all()

    def resume(self) -> None:
        """The optimizer has ended: what was kept back may be used now, unless the run as a whole has failed."""
        with self._changed:
            self.kept_back = self.kept_time = 0
            if self._stop is not None and self._stop.kind in ("budget", "enough"):
                self._stop = None

    def admits(self, most: int) -> bool | None:
        """Sets aside the most a call can cost; False when the run is stopped, or stops because of it.

        None where the call would fit once others have ended. Every call admitted is to be settled.
        """
        with self._changed:
            self._check_time()
            if self._stop is None and not self._fits(most):
                if self._reserved:
                    return None
                limit, call = dollars(self._limit or 0), dollars(most)
                self._stop = Stop("budget", f"the budget of ${limit} does not cover another call, of up to ${call}")
            if self._stop is None:
                self._reserved += most
            return self._stop is None

    def admit(self, most: int) -> bool:
        """As `admits`, having waited for the calls that stand in its way."""
        with self._changed:
            while (admitted := self.admits(most)) is None:
                self._changed.wait(_PATIENCE)
        return admitted

    def settle(self, most: int) -> None:
        """The call is in the ledger, or has failed to be made: what was set aside for it is free."""
        with self._changed:
            self._reserved -= most
            self._changed.notify_all()

    def note(self, role: Role, cost: int) -> None:
        """One answer came in, paid now or by an earlier attempt."""
        with self._changed:
            self.paid[role] += cost

    def heard(self, role: Role, fault: str | None) -> None:
        """An LM has answered, or failed for good with `fault`; too many failures void the run."""
        if self._stop is not None:
            return
        with self._changed:
            recent = self._recent[role]
            recent.append(fault is not None)
            self.failed[role] += fault is not None
            self.fault = fault or self.fault
            row = IN_A_ROW[role]
            down = len(recent) >= row and all(list(recent)[-row:])
            failing = len(recent) == RECENT and sum(recent) > TOLERATED * RECENT
        if down or failing:
            share = f"{row} calls in a row" if down else f"{sum(recent)} of the last {RECENT} calls"
            self.stop("void", f"the {role} LM failed in {share}: {fault}")

    def _fits(self, most: int) -> bool:
        return self._limit is None or self.spent + self._reserved + most + self.kept_back <= self._limit

    def _check_time(self) -> None:
        if self._stop is None and self.worked + self.kept_time > self._time:
            self._stop = Stop("budget", f"its {self._time / 60 / SECOND:g} minutes are used up")
