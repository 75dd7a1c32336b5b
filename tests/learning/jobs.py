"""Compile jobs in the simulated world, and language models that fail when a test wants them to."""

import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import msgspec
from dspy.lm15 import LM15Error, Message, Request, Response

from experiments.metrics import Metric
from learning.compile_runs import Budget, Dataset, Event, Example, Job, Result
from learning.compiling.compilation import Compilation
from learning.definitions import LmSettings, Price, ProgramDefinition
from learning.engines.simulated import Simulation, world
from learning.engines.triage import ticket
from learning.lms import Lm, open_lm
from learning.programs import base_variant

SIGNATURE = "ticket: str -> category: Literal['billing', 'bug', 'how-to', 'other']"
PRICE = Price("0.15", "0.6")
GOAL = Metric(kind="exact_match", field="category", role="goal")
STEPS: dict[str, Any] = {"signature": SIGNATURE, "module": "tests.learning.modules:Steps"}


def sim(**options: Any) -> LmSettings:
    return LmSettings(model="sim/triage", price=PRICE, max_tokens=200, options=options)


def examples(n: int, start: int) -> tuple[Example, ...]:
    drawn = ((at, ticket(3, at, shift=0.5)) for at in range(start, start + n))
    return tuple(
        Example(
            prediction_id=f"p{at}",
            unit_hash=f"u{at}",
            at=at,
            input={"ticket": each.text},
            label={"category": each.label},
        )
        for at, each in drawn
    )


def job(definition: dict[str, Any] | None = None, budget: dict[str, Any] | None = None, **changes: Any) -> Job:
    """GEPA on triage with 40 examples to learn from, 20 to choose by and 30 sealed, unless told otherwise."""
    basis = {"signature": SIGNATURE, "instructions": "Sort the ticket.", "lm": sim(), "metrics": {"accuracy": GOAL}}
    if definition and "module" in definition:
        del basis["instructions"]
    declared = ProgramDefinition(**{**basis, **(definition or {})})
    return Job(
        **{
            "compile_id": "c1",
            "program": "triage",
            "definition": declared,
            "champion": base_variant("triage", declared, 0),
            "goal": GOAL,
            "dataset": Dataset(train=examples(40, 0), val=examples(20, 1000), holdout=examples(30, 2000), digest="d"),
            "optimizer": "gepa",
            "component": None,
            "reflection_lm": None,
            "budget": Budget(**{"cost": None, "metric_calls": 200, "time": 60_000_000, **(budget or {})}),
            "seed": 0,
            **changes,
        }
    )


def compiled(given: Job, folder: Path, opened: Callable[[LmSettings], Lm] = open_lm) -> Result:
    """The result of a run in this process, on a clock that moves a millisecond each time it is read."""
    moments = itertools.count(1_700_000_000_000_000, 1000)
    return Compilation(given, folder, lambda: next(moments), opened).run()


def events(folder: Path) -> list[Event]:
    return [msgspec.json.decode(line, type=Event) for line in (folder / "events.jsonl").read_bytes().splitlines()]


def calls(folder: Path, role: str | None = None) -> list[dict[str, Any]]:
    """The ledger's lines about calls."""
    lines = [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]
    return [line for line in lines if line["line"] == "call" and role in (None, line["role"])]


Fault = Callable[[int, Request], LM15Error | None]


class Faulty:
    """Opens real language models of which a test decides call by call whether they fail; `asked` counts the calls."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.asked = 0

    def open(self, settings: LmSettings) -> Lm:
        lm = open_lm(settings)
        engines = {
            "engine": _Engine(self, lm.model.engine),
            "async_engine": _AsyncEngine(self, lm.model._async_engine_spec),
        }
        return msgspec.structs.replace(lm, model=lm.model.copy(**engines))

    def check(self, request: Request) -> None:
        self.asked += 1
        if (error := self.fault(self.asked, request)) is not None:
            raise error


def proposing(rewrite: Callable[[str], str]) -> Callable[[LmSettings], Lm]:
    """Opens real language models whose proposed instructions pass through `rewrite`."""

    def opened(settings: LmSettings) -> Lm:
        lm = open_lm(settings)
        engine = _Proposing(rewrite, lm.model.engine)
        model = lm.model.copy(engine=engine, async_engine=lm.model._async_engine_spec)
        return msgspec.structs.replace(lm, model=model)

    return opened


class _Proposing:
    def __init__(self, rewrite: Callable[[str], str], inner: Any) -> None:
        self._rewrite = rewrite
        self._inner = inner

    def complete(self, request: Request) -> Response:
        response = self._inner.complete(request)
        if "new_instruction" not in str(request.system):
            return response
        said = json.loads(response.text)["new_instruction"]
        text = json.dumps({"new_instruction": self._rewrite(said)})
        return replace(response, message=Message.assistant(text))


class _Engine:
    def __init__(self, faulty: Faulty, inner: Any) -> None:
        self._faulty = faulty
        self._inner = inner

    def complete(self, request: Request) -> Response:
        self._faulty.check(request)
        return self._inner.complete(request)


class _AsyncEngine:
    def __init__(self, faulty: Faulty, inner: Any) -> None:
        self._faulty = faulty
        self._inner = inner

    async def complete(self, request: Request) -> Response:
        self._faulty.check(request)
        return await self._inner.complete(request)


class World(ThreadingHTTPServer):
    """The simulated model behind the protocol of OpenAI's chat; `served` counts what a provider would have billed."""

    request_queue_size = 256
    daemon_threads = True

    def __init__(self, latency: float) -> None:
        super().__init__(("127.0.0.1", 0), _Chat)
        self.latency = latency
        self.served = 0
        self.simulation = Simulation(world("triage", {}))
        self._lock = threading.Lock()

    @property
    def lm(self) -> LmSettings:
        url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        return LmSettings(model="acme/triage", api_base=url, price=PRICE, max_tokens=200)

    def count(self) -> None:
        with self._lock:
            self.served += 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A child that is killed hangs up."""


@contextmanager
def serving(latency: float) -> Iterator[World]:
    with World(latency) as provider:
        thread = threading.Thread(target=provider.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield provider
        finally:
            provider.shutdown()
            thread.join()


class _Chat(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: World

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.count()
        time.sleep(self.server.latency)
        system = next((turn["content"] for turn in body["messages"] if turn["role"] == "system"), None)
        turns = [turn for turn in body["messages"] if turn["role"] != "system"]
        makers = {"user": Message.user, "assistant": Message.assistant}
        messages = tuple(makers[turn["role"]](turn["content"]) for turn in turns)
        response, _ = self.server.simulation.respond(Request(model="triage", system=system, messages=messages))
        message = {"role": "assistant", "content": response.message.text}
        usage = {"prompt_tokens": response.usage.input_tokens, "completion_tokens": response.usage.output_tokens}
        answer = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}], "usage": usage}
        payload = json.dumps({"id": "1", "model": "triage", **answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""


class Child:
    """The real process, at work in a directory."""

    def __init__(self, folder: Path, given: Job | None = None, **process: Any) -> None:
        self.folder = folder
        if given is not None:
            (folder / "job.json").write_bytes(msgspec.json.encode(given))
        with (folder / "stdout").open("ab") as stdout, (folder / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "learning.compiling.child", str(folder)],
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                **process,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.hang_up()

    def hang_up(self) -> None:
        """What the child sees of a parent that died."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self) -> int:
        return self.process.wait(60)

    def wait_for_calls(self, least: int) -> None:
        """Until so many calls were paid."""
        ledger = self.folder / "calls.jsonl"
        while not ledger.exists() or ledger.read_bytes().count(b"\n") <= least:
            assert self.process.poll() is None, self.complaint()
            time.sleep(0.01)

    def result(self) -> Result:
        return msgspec.json.decode((self.folder / "result.json").read_bytes(), type=Result)

    def complaint(self) -> str:
        """The last line on standard error."""
        return (self.folder / "stderr").read_text().strip().rpartition("\n")[2]
