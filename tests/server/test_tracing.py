"""Which trace a request belongs to, and what its spans say, through the real application and a collector's eyes."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import structlog
from dspy.lm15 import ServerError
from opentelemetry import trace as opentelemetry

from experiments.facts import shadow_id
from server.store.facts import example
from server.tracing.context import Caller, caller
from server.tracing.tracing import Tracing
from tests.application import DEFINITIONS, Application, application
from tests.collector import Collector, Span
from tests.scripted_lm import Reply, Script, chat
from tests.server.test_predict import split, terse, units
from tests.server.test_shadows import begun, paired

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that the applications of a test send their spans to."""
    with Collector() as listening:
        for name, value in listening.environment.items():
            monkeypatch.setenv(name, value)
        yield listening


def played(url: str, play: Callable[[Application], Coroutine[Any, Any, Any]], *with_: Script, **options: Any) -> None:
    """Play a test's part on an application of its own; its spans are sent when this returns."""

    async def whole() -> None:
        async with application(url, *with_, **options) as app:
            await play(app)

    asyncio.run(whole())


def below(spans: list[Span], above: Span) -> list[Span]:
    return sorted((span for span in spans if span.parent_id == above.span_id), key=lambda span: span.began)


def requests(spans: list[Span], route: str = "/predict") -> list[Span]:
    return [span for span in spans if span.kind == "SERVER" and span.name.endswith(route)]


async def kept(app: Application, traceparent: str | None) -> str | None:
    """The trace id of a prediction whose request came with this header."""
    headers = {} if traceparent is None else {"traceparent": traceparent}
    body = {"input": {"ticket": "It crashed"}}
    answer = await app.http.post("/v1/programs/triage/predict", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    found = await app.ratchet.store.read(example, answer.json()["prediction_id"])
    assert found is not None
    return found.prediction.trace_id


@pytest.mark.parametrize(
    "written",
    [
        "",
        "00",
        TRACE,
        SAMPLED.upper(),
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"cc-{TRACE}-{SPAN}-01more",
    ],
)
def test_a_malformed_traceparent_counts_as_absent(written: str):
    assert caller([(b"traceparent", written.encode())]) is None


def test_a_traceparent_of_a_later_version_is_read_as_far_as_it_is_known():
    assert caller([(b"traceparent", f"cc-{TRACE}-{SPAN}-01-more".encode())]) == Caller(TRACE, SPAN, 1)


def test_two_traceparents_are_none():
    assert caller([(b"traceparent", SAMPLED.encode())] * 2) is None


def test_without_a_collector_the_callers_trace_is_kept_and_none_is_begun(database_url: str):
    async def play(app: Application) -> None:
        assert await kept(app, SAMPLED) == TRACE
        assert await kept(app, None) is None
        assert await kept(app, "00-nonsense") is None

    played(database_url, play)


def test_an_exemplar_leads_only_to_a_trace_that_is_kept(sqlite_url: str):
    async def play(app: Application) -> None:
        unsampled = f"00-{'1' * 32}-{SPAN}-00"
        assert await kept(app, unsampled) == "1" * 32
        assert "trace_id" not in await exemplars(app)
        await kept(app, SAMPLED)
        assert f'trace_id="{TRACE}"' in await exemplars(app)

    async def exemplars(app: Application) -> str:
        return (await app.http.get("/metrics", headers={"Accept": "application/openmetrics-text"})).text

    played(sqlite_url, play)


def test_a_trace_that_its_caller_does_not_keep_is_not_sent(sqlite_url: str, collector: Collector):
    async def play(app: Application) -> None:
        assert await kept(app, f"00-{TRACE}-{SPAN}-00") == TRACE
        await kept(app, SAMPLED)

    played(sqlite_url, play)
    assert len(requests(collector.spans)) == 1


def test_requests_that_only_look_have_no_spans(sqlite_url: str, collector: Collector):
    async def play(app: Application) -> None:
        for path in ("/health/ready", "/metrics", "/v1/programs"):
            assert (await app.http.get(path, headers={"traceparent": SAMPLED})).status_code == 200

    played(sqlite_url, play)
    assert collector.spans == []


def test_a_fallback_shows_both_tries_and_why_the_first_failed(sqlite_url: str, collector: Collector):
    def script(_model: str, prompt: str) -> str | ServerError:
        return ServerError("down since Anna's party") if terse(prompt) else chat(category="bug")

    async def play(app: Application) -> None:
        experiment = await split(app)
        answer = (await app.predict(unit=units("terse")[0])).json()
        assert (answer["fallback"], answer["experiment_id"]) == (True, experiment)

    played(sqlite_url, play, script)
    (request,) = requests(collector.spans)
    failed, answered, journal = below(collector.spans, request)
    assert [span.failed for span in (request, failed, answered, journal)] == [False, True, False, False]
    assert failed.attributes["error.type"] == "lm-failed"
    assert [span.attributes["ratchet.variant"] for span in (failed, answered)] == ["terse", "base"]
    assert {span.attributes["ratchet.assigned_variant"] for span in (failed, answered)} == {"terse"}
    assert {span.attributes["ratchet.experiment_id"] for span in (failed, answered)} == {"trial"}
    (call,) = below(collector.spans, failed)
    assert (call.failed, call.attributes["error.type"]) == (True, "LMServerError")
    assert "gen_ai.usage.input_tokens" not in call.attributes
    assert not any(b"Anna" in body for body in collector.bodies), "what an error says may be content"


def test_a_call_cut_short_by_the_deadline_is_seen(sqlite_url: str, collector: Collector):
    async def play(app: Application) -> None:
        assert (await app.predict()).status_code == 504

    definitions = DEFINITIONS.replace("timeout: 5s", "timeout: 100ms")
    played(sqlite_url, play, lambda _model, _prompt: Reply("", seconds=60), definitions=definitions)
    (request,) = requests(collector.spans)
    assert (request.failed, request.attributes["error.type"]) == (True, "504")
    tried, _ = below(collector.spans, request)
    (call,) = below(collector.spans, tried)
    assert (tried.attributes["error.type"], call.attributes["error.type"]) == ("lm-timeout", "CancelledError")


def test_a_refused_request_is_no_failure_of_the_server(sqlite_url: str, collector: Collector):
    async def play(app: Application) -> None:
        assert (await app.http.post("/v1/programs/triage/predict", json={})).status_code == 400
        assert (await app.http.post("/v1/nowhere", json={})).status_code in (404, 405)

    played(sqlite_url, play)
    told = {span.name: span for span in collector.spans}
    assert not any(span.failed for span in collector.spans)
    assert told["POST /v1/programs/{program}/predict"].attributes["http.response.status_code"] == 400
    assert len(told) == 2


def test_a_batch_is_one_request_with_a_try_for_each_item(sqlite_url: str, collector: Collector):
    async def play(app: Application) -> None:
        items = [{"input": {"ticket": f"It crashed {number}"}} for number in range(3)]
        for headers in ({}, {"Idempotency-Key": "k"}):
            answer = await app.http.post("/v1/programs/triage/predict/batch", json={"items": items}, headers=headers)
            made.append({one["prediction_id"] for one in answer.json()["results"]})

    made: list[set[str]] = []
    played(sqlite_url, play)
    for request, ids in zip(requests(collector.spans, "/batch"), made, strict=True):
        tried = [span for span in below(collector.spans, request) if span.name == "invoke_workflow triage"]
        assert {span.attributes["ratchet.prediction_id"] for span in tried} == ids
        assert all(len(below(collector.spans, span)) == 1 for span in tried)


def test_an_answer_given_before_is_a_request_without_a_try(sqlite_url: str, collector: Collector):
    async def play(app: Application) -> None:
        assert (await app.predict(key="k")).json() == (await app.predict(key="k")).json()

    played(sqlite_url, play)
    assert sorted(len(below(collector.spans, one)) for one in requests(collector.spans)) == [0, 2]


def test_a_shadow_belongs_to_the_trace_of_the_request_it_answers(sqlite_url: str, collector: Collector):
    async def play(app: Application) -> None:
        await begun(app)
        served.append(await paired(app))
        await app.ratchet.traffic.drained()
        found = await app.ratchet.store.read(example, served[0])
        shadow = await app.ratchet.store.read(example, shadow_id(served[0]))
        assert found is not None
        assert shadow is not None
        assert shadow.prediction.trace_id == found.prediction.trace_id

    served: list[str] = []
    played(sqlite_url, play)
    of = {span.attributes["ratchet.prediction_id"]: span for span in collector.spans if span.kind == "INTERNAL"}
    assert of[shadow_id(served[0])].parent_id == of[served[0]].parent_id


def test_a_program_with_several_calls_shows_them_in_order(sqlite_url: str, collector: Collector):
    async def play(app: Application) -> None:
        assert (await app.predict()).status_code == 200

    answers = iter(["nothing that can be read", '{"category": "bug"}'])  # DSPy asks again, for JSON
    played(sqlite_url, play, lambda _model, _prompt: next(answers))
    (request,) = requests(collector.spans)
    tried, _ = below(collector.spans, request)
    first, second = below(collector.spans, tried)
    assert first.ended <= second.began


def test_an_answer_that_is_no_text_is_told_all_the_same(
    sqlite_url: str, collector: Collector, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")

    async def play(app: Application) -> None:
        assert (await app.predict()).status_code == 200

    played(sqlite_url, play, lambda _model, _prompt: chat(category="bug") + "\ud800")
    (call,) = [span for span in collector.spans if span.kind == "CLIENT"]
    assert "\ud800" in json.loads(call.attributes["gen_ai.output.messages"])[0]["parts"][0]["content"]


def test_a_tracestate_that_breaks_the_rules_is_dropped_in_silence(
    sqlite_url: str, collector: Collector, capfd: pytest.CaptureFixture[str]
):
    async def play(app: Application) -> None:
        body = {"input": {"ticket": "It crashed"}}
        headers = {"traceparent": SAMPLED, "tracestate": "=,;=,a=\t"}
        assert (await app.http.post("/v1/programs/triage/predict", json=body, headers=headers)).status_code == 200

    played(sqlite_url, play)
    (request,) = requests(collector.spans)
    assert (request.trace_id, request.parent_id, request.state) == (TRACE, SPAN, "")
    assert "tracestate" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTLP over grpc is not spoken here; use http/protobuf"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "refuses its settings: max_queue_size"),
        ({}, "make setup EXTRAS=otel"),
    ],
    ids=["another protocol", "a bad setting", "no extra"],
)
def test_what_cannot_be_traced_is_said_once_and_the_server_starts(
    told: dict[str, str], reason: str, collector: Collector, monkeypatch: pytest.MonkeyPatch
):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    if not told:
        monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
        monkeypatch.delitem(sys.modules, "server.tracing.export", raising=False)
    on, said = opened({**collector.environment, **told})
    assert not on
    assert [event["event"] for event in said] == ["traces_off"]
    assert reason in said[0]["reason"]


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}], ids=str)
def test_the_standard_switches_turn_it_off_in_silence(off: dict[str, str], collector: Collector):
    assert opened({**collector.environment, **off}) == (False, [])
    assert opened({}) == (False, [])


def test_without_a_collector_opentelemetry_is_not_even_imported():
    look = "import server.app, sys; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_global_provider_is_left_alone(sqlite_url: str, collector: Collector):
    async def play(app: Application) -> None:
        await app.predict()

    before = opentelemetry.get_tracer_provider()
    played(sqlite_url, play)
    assert collector.spans
    assert opentelemetry.get_tracer_provider() is before
    assert isinstance(before, opentelemetry.ProxyTracerProvider)


def opened(environ: dict[str, str]) -> tuple[bool, list[Any]]:
    """Whether spans are made under these variables, and what is said about it."""

    async def look() -> bool:
        tracing = Tracing()
        async with tracing.exporting(environ, structlog.get_logger()):
            return tracing.on

    with structlog.testing.capture_logs() as said:
        return asyncio.run(look()), said
