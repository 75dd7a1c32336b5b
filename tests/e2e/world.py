"""A program in a world that changes: users whose tickets are answered and judged without pause; what the server does.

Windows of seconds stand where production has hours. Nothing here asks the server to do anything.
"""

import json
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import httpx

from learning.engines.triage import rulebook, ticket
from tests.e2e.desk import until

QUICK = {"RATCHET_TICK": "250ms"}
SHIFT = 0.8
"""The share of tickets about a new product, once the world has changed."""
BATCH = 25
_SEED = 5


def definitions(*, lm: dict[str, Any] | None = None, min_units: int = 50, **learning: Any) -> str:
    """A definitions file of the program `triage`, whose champion was written for the world as it was."""
    student = {"model": "sim/triage", "options": {"seed": 3, "noise": 0.02}, "price": {"input": 0.15, "output": 0.6}}
    reflection = {"model": "sim/triage", "options": {"seed": 3}, "price": {"input": 1.25, "output": 10}}
    program = {
        "signature": "ticket: str -> category: Literal['billing', 'bug', 'how-to', 'other']",
        "instructions": rulebook(),
        "lm": lm or student,
        "timeout": "5s",
        "metrics": {"correct": {"kind": "exact_match", "field": "category", "role": "goal"}},
        "experiments": {
            "randomize": "request",
            "ramp": [],
            "split": {"champion": 0.5, "challenger": 0.5},
            "min_units": min_units,
            "min_effect": 0.05,
            "min_duration": 0,
            "outcome_window": "1s",
            "block": "1s",
            "holdback": 0,
        },
        "drift": {"min_outcomes": 100, "maturity": "1s"},
        "learning": {
            "on": ["drift"],
            "optimizer": "gepa",
            "reflection_lm": reflection,
            "min_fresh_labels": 300,
            "max_metric_calls": 900,
            "budget_usd": 1,
            "cooldown": "1s",
            **learning,
        },
    }
    return json.dumps({"programs": {"triage": program}})


class World:
    """Traffic until the block is left, on the server that is at `url()`; one that is away is waited for.

    Assign `shift` to change what tickets are about, and `truth` to change what users hold a category to be.
    """

    def __init__(self, url: Callable[[], str], *, per_second: float = 250) -> None:
        self.shift = 0.0
        self.truth: dict[str, str] = {}
        self.failure: BaseException | None = None
        self._url = url
        self._pause = BATCH / per_second
        self._right: list[bool] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def share_right(self, answers: int = 200) -> float:
        """The share of right answers among the next so many."""
        first = len(self._right) + BATCH  # a batch may be under way that was written before
        until(lambda: self.failure or len(self._right) >= first + answers, seconds=200)
        self.check()
        return sum(self._right[first : first + answers]) / answers

    @property
    def judged(self) -> int:
        """How many answers were judged."""
        return len(self._right)

    def check(self) -> None:
        """Raises: what went wrong with the traffic."""
        if self.failure is not None:
            raise self.failure

    def _work(self) -> None:
        written = 0
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                self._right += self._served(written)
                written += BATCH
                self._stop.wait(max(0.0, began + self._pause - time.monotonic()))
        except BaseException as error:  # noqa: BLE001 -- raised in the test's own thread, by `check`
            self.failure = error

    def _served(self, first: int) -> list[bool]:
        tickets = [ticket(_SEED, number, shift=self.shift) for number in range(first, first + BATCH)]
        labels = [self.truth.get(each.label, each.label) for each in tickets]
        items = [{"input": {"ticket": each.text}} for each in tickets]
        answers = self._post("/v1/programs/triage/predict/batch", {"items": items})
        said = [
            {"prediction_id": answer["prediction_id"], "label": {"category": label}}
            for answer, label in zip(answers, labels, strict=True)
        ]
        self._post("/v1/outcomes", {"outcomes": said})
        return [answer["output"]["category"] == label for answer, label in zip(answers, labels, strict=True)]

    def _post(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The results. A server that is away is asked again: applications do not forget what they have to say."""
        return list(answered(lambda: httpx.post(self._url() + path, json=body, timeout=30, trust_env=False))["results"])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        if error is None:
            self.check()


def answered(ask: Callable[[], httpx.Response]) -> Any:
    """The decoded answer of a server that may be away for a while: half a minute at most."""
    end = time.monotonic() + 30
    while True:
        try:
            answer = ask()
            if answer.status_code != 503 or time.monotonic() > end:
                return answer.raise_for_status().json()
        except httpx.TransportError:
            if time.monotonic() > end:
                raise
        time.sleep(0.1)


class Look:
    """What the server at `url()` tells about the program and its learning."""

    def __init__(self, url: Callable[[], str]) -> None:
        self._url = url

    def get(self, path: str) -> Any:
        """The decoded answer; a server that is away is waited for."""
        return answered(lambda: httpx.get(self._url() + path, timeout=30, trust_env=False))

    @property
    def champion(self) -> str:
        return str(self.get("/v1/programs/triage")["champion"])

    @property
    def outlook(self) -> str:
        """Why the program is being recompiled, or is not."""
        (program,) = self.get("/v1/status")["programs"]
        return str(program["learning"])

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The compile runs, newest first."""
        return list(self.get("/v1/compiles")["items"])

    @property
    def experiments(self) -> list[dict[str, Any]]:
        return list(self.get("/v1/experiments")["items"])

    @property
    def variants(self) -> list[str]:
        """Their names, the oldest first."""
        return [each["name"] for each in reversed(self.get("/v1/programs/triage/variants")["items"])]

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """Those of the score, newest first."""
        found = self.get("/v1/programs/triage/drift")["alarms"]
        return [alarm for alarm in found if alarm["signal"] == "score"]

    def ended(self, number: int = 1) -> dict[str, Any]:
        """The `number`-th compile run, once it has ended."""

        def found() -> dict[str, Any] | None:
            runs = self.runs
            run = runs[-number] if len(runs) >= number else None
            return run if run and run["finished_at"] else None

        return dict(until(found, seconds=200))
