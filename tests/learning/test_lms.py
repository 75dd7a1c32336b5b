"""Opening, bounding and metering language models, against a local endpoint that speaks the OpenAI chat protocol."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dspy
import pytest

from experiments.errors import Busy, Invalid
from experiments.facts import Call
from learning.definitions import LmSettings, Price
from learning.engines.local import local_model
from learning.lms import Lm, check_lm, configure_process, metering, open_lm

SIGNATURE = "text -> label: Literal['yes', 'no']"
ANSWER = "[[ ## label ## ]]\nyes\n\n[[ ## completed ## ]]"
PRICE = Price("0.15", "0.6")


class Endpoint(ThreadingHTTPServer):
    """Answers each request with the next of `answers` (the last one for ever): a status, or a text with its usage."""

    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[Any] = [(ANSWER, {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10})]
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.meeting = threading.Barrier(1)
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        with contextlib.suppress(threading.BrokenBarrierError):
            self.server.meeting.wait(30)
        with self.server.lock:
            answers = self.server.answers
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, int):
            self._send(answer, {"error": {"message": "no"}})
        else:
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer[0]}}
            self._send(200, {"id": "1", "model": "m", "choices": [choice], "usage": answer[1]})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""


@pytest.fixture(autouse=True, scope="module")
def _process() -> None:
    configure_process()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.meeting.abort()
    server.shutdown()
    server.server_close()
    thread.join()


def settings(endpoint: Endpoint, **changes: Any) -> LmSettings:
    return LmSettings(**{"model": "acme/m:8b", "api_base": endpoint.url, "price": PRICE, "num_retries": 0, **changes})


def ask(lm: Lm, times: int = 1) -> list[Call]:
    """The calls that so many predictions make, one after the other."""

    async def asking() -> list[Call]:
        calls: list[Call] = []
        program = dspy.Predict(SIGNATURE)
        with metering("base", calls), lm.context():
            for _ in range(times):
                assert (await program.acall(text="hello")).label == "yes"
        await lm.aclose()
        return calls

    return asyncio.run(asking())


def test_a_call_is_billed_exactly_in_picodollars(endpoint: Endpoint) -> None:
    [call] = ask(open_lm(settings(endpoint)))
    assert (call.variant, call.model, call.input_tokens, call.output_tokens) == ("base", "acme/m:8b", 7, 3)
    assert call.cost == 7 * 150_000 + 3 * 600_000
    assert call.latency > 0


def test_without_a_price_or_without_reported_tokens_a_cost_is_unknown_and_not_zero(endpoint: Endpoint) -> None:
    [unpriced] = ask(open_lm(settings(endpoint, price=None)))
    endpoint.answers = [(ANSWER, None)]
    [unreported] = ask(open_lm(settings(endpoint)))
    assert unpriced.cost is None
    assert unreported.cost is None


def test_the_hidden_second_call_after_an_unreadable_answer_is_billed_too(endpoint: Endpoint) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    endpoint.answers = [("The label is Yes!", usage), ('{"label": "yes"}', usage)]
    assert len(ask(open_lm(settings(endpoint)))) == 2


def test_equal_questions_are_asked_each_time_and_nothing_is_kept(endpoint: Endpoint) -> None:
    lm = open_lm(settings(endpoint))
    assert len(ask(lm, times=3)) == 3
    assert len(endpoint.seen) == 3
    assert lm.model.history == []


def test_calls_of_concurrent_requests_do_not_mix(endpoint: Endpoint) -> None:
    lm = open_lm(settings(endpoint))

    async def one(name: str, times: int) -> list[Call]:
        calls: list[Call] = []
        with metering(name, calls), lm.context():
            for _ in range(times):
                await dspy.Predict(SIGNATURE).acall(text=name)
        return calls

    async def all_at_once() -> list[list[Call]]:
        return await asyncio.gather(*(one(f"v{n}", n) for n in range(1, 6)))

    for n, calls in enumerate(asyncio.run(all_at_once()), start=1):
        assert [call.variant for call in calls] == [f"v{n}"] * n


def test_as_many_connections_are_open_at_once_as_the_settings_allow(endpoint: Endpoint) -> None:
    endpoint.meeting = threading.Barrier(130)
    lm = open_lm(settings(endpoint, max_concurrency=130))

    async def crowd() -> None:
        with lm.context():
            await asyncio.gather(*(dspy.Predict(SIGNATURE).acall(text=str(n)) for n in range(130)))
        await lm.aclose()

    asyncio.run(crowd())
    assert not endpoint.meeting.broken


def test_a_proxy_that_the_environment_names_is_used(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", endpoint.url.removesuffix("/v1"))
    ask(open_lm(settings(endpoint, api_base="http://elsewhere.invalid/v1")))
    assert endpoint.seen[0][0] == "http://elsewhere.invalid/v1/chat/completions"


def test_beyond_its_limit_an_lm_refuses_at_once() -> None:
    lm = open_lm(LmSettings(model="sim/triage", max_concurrency=2))
    with lm.slots.taken(), lm.slots.taken(), pytest.raises(Busy) as full, lm.slots.taken():
        pass
    assert full.value.retry_after > 0
    with lm.slots.taken():
        assert lm.slots.in_use == 1


def test_a_server_error_is_tried_again_only_as_often_as_the_settings_say(endpoint: Endpoint) -> None:
    endpoint.answers = [500]
    with pytest.raises(dspy.LMError):
        ask(open_lm(settings(endpoint, num_retries=0)))
    assert len(endpoint.seen) == 1
    endpoint.answers = [500, (ANSWER, None)]
    ask(open_lm(settings(endpoint, num_retries=1)))
    assert len(endpoint.seen) == 3


def test_the_settings_reach_the_endpoint(endpoint: Endpoint) -> None:
    ask(open_lm(settings(endpoint, temperature=0.3, max_tokens=55)))
    [(path, _, body)] = endpoint.seen
    assert path == "/v1/chat/completions"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m:8b", 0.3, 55)


def test_a_silent_endpoint_is_given_up_after_the_timeout(endpoint: Endpoint) -> None:
    endpoint.meeting = threading.Barrier(2)
    with pytest.raises(dspy.LMError):
        ask(open_lm(settings(endpoint, timeout="50ms")))


def test_a_key_goes_to_an_endpoint_of_ones_own_only_when_it_is_named(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-openai")
    monkeypatch.setenv("MY_KEY", "mine")
    ask(open_lm(settings(endpoint, model="openai/some-model")))
    ask(open_lm(settings(endpoint, model="openai/some-model", api_key_env="MY_KEY")))
    ask(open_lm(settings(endpoint, api_key_env="MY_KEY")))
    sent = [headers["Authorization"] for _, headers, _ in endpoint.seen]
    assert "secret" not in sent[0]
    assert sent[1:] == ["Bearer mine", "Bearer mine"]


@pytest.mark.parametrize(
    ("model", "changes", "pointer", "says"),
    [
        ("openai/gpt-4o", {}, "/api_key_env", "set OPENAI_API_KEY"),
        ("acme/m", {"api_base": "http://127.0.0.1:9/v1", "api_key_env": "NOT_SET"}, "/api_key_env", "NOT_SET"),
        ("sim/nowhere", {}, "/model", "Allowed: phrases, triage"),
        ("sim/triage", {"options": {"sede": 1}}, "/options", "seed"),
        ("sim/triage", {"options": {"latency": "soon"}}, "/options", "soon"),
        ("sim/triage", {"options": {"error_rate": 2}}, "/options", "error_rate"),
        ("sim/triage", {"adapter": "plain"}, "/adapter", "chat"),
        ("local/gpt", {}, "/model", "smollm2"),
    ],
)
def test_what_could_never_answer_is_refused_when_checked(
    monkeypatch: pytest.MonkeyPatch, model: str, changes: dict[str, Any], pointer: str, says: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(Invalid) as refused:
        check_lm(LmSettings(model=model, **changes))
    [fault] = refused.value.faults
    assert fault.pointer == pointer
    assert says in fault.message


@pytest.mark.parametrize(("model", "extra"), [("local/smollm2", "local-lm"), ("mistral/small", "litellm")])
def test_a_missing_extra_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch, model: str, extra: str) -> None:
    local_model.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(Invalid, match=f"make setup EXTRAS={extra}") as refused:
        check_lm(LmSettings(model=model))
    assert refused.value.faults[0].pointer == "/model"
