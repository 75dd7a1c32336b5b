"""An application and its users, as a server meets them: tickets of the simulated world, answered and then judged."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import httpx

from learning.engines.triage import rulebook, ticket

GOOD = rulebook()
POOR = "Classify the support ticket."
AT_ONCE = 20


class Desk:
    """Traffic on one program until the block is left: each user writes one ticket, whose true category is reported.

    `served` counts answers by variant. A server that is away is waited for.
    """

    def __init__(self, url: Callable[[], str], program: str) -> None:
        self.program = program
        self.served: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        first = 0
        try:
            while not self._stop.is_set():
                try:
                    self.serve(first, AT_ONCE)
                except httpx.TransportError:
                    time.sleep(0.1)
                first += AT_ONCE
        except BaseException as error:  # noqa: BLE001 -- raised in the test's own thread, by `check`
            self.failure = error

    def serve(self, first: int, count: int) -> list[dict[str, Any]]:
        """Answer the tickets of these users in one batch, then report what they truly were."""
        with httpx.Client(base_url=self._url(), timeout=30, trust_env=False) as http:
            tickets = [ticket(1, number) for number in range(first, first + count)]
            items = [
                {"input": {"ticket": written.text}, "unit": f"user-{first + at}"} for at, written in enumerate(tickets)
            ]
            answers = _ok(http.post(f"/v1/programs/{self.program}/predict/batch", json={"items": items}))["results"]
            self.served.update(answer["variant"] for answer in answers)
            outcomes = [
                {"prediction_id": answer["prediction_id"], "label": {"category": written.label}}
                for answer, written in zip(answers, tickets, strict=True)
            ]
            told = _ok(http.post("/v1/outcomes", json={"outcomes": outcomes}))["results"]
        assert {result["status"] for result in told} <= {"accepted", "duplicate"}, told
        return list(answers)

    def check(self) -> None:
        """Raises: what went wrong with the traffic."""
        if self.failure is not None:
            raise self.failure

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        if error is None:
            self.check()


def _ok(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def until(holds: Callable[[], Any], seconds: float = 120) -> Any:
    """What `holds` returns once it is true; it must come about."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)
    return found
