"""Traces of a real server under traffic, as a collector receives them; and what requests are like when it does not."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.collector import Collector, Span
from tests.servers import DEFINITIONS, RunningServer

CALLER = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"traceparent": f"00-{CALLER}-b7ad6b7169203331-01", "tracestate": "shop=t61"}
TICKET = "My invoice of 4711 dollars crashed"
ENOUGH = 20


class Scene:
    """A server with a collector, after traffic of which one request came with a trace of its caller's."""

    def __init__(self, server: RunningServer, collector: Collector) -> None:
        self.server = server
        with server.client() as http:
            self.answer = predicted(http, HEADERS)
            self.others = [predicted(http) for _ in range(ENOUGH)]
            self.page = http.get("/v1/programs/triage/predictions").json()["items"]
            self.metrics = http.get("/metrics", headers={"Accept": "application/openmetrics-text"}).text
        self.spans = collector.await_spans(lambda spans: len(roots(spans)) == 1 + ENOUGH)
        self.bodies = b"".join(collector.bodies)

    def stored(self, answer: dict[str, Any]) -> dict[str, Any]:
        return next(one for one in self.page if one["prediction_id"] == answer["prediction_id"])

    def trace(self, trace_id: str) -> list[Span]:
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.began)


def predicted(http: httpx.Client, headers: dict[str, str] | None = None) -> dict[str, Any]:
    answer = http.post("/v1/programs/triage/predict", json={"input": {"ticket": TICKET}}, headers=headers)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def roots(spans: list[Span]) -> list[Span]:
    return [span for span in spans if span.kind == "SERVER"]


def serving(directory: Path, **environment: str) -> RunningServer:
    definitions = directory / "ratchet.yaml"
    definitions.write_text(DEFINITIONS)
    return RunningServer(directory / "data", config=definitions, environment=environment)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    told = {"RATCHET_LOG_LEVEL": "debug", "RATCHET_LOG_FORMAT": "json"}
    with (
        Collector() as collector,
        serving(tmp_path_factory.mktemp("traced"), **collector.environment, **told) as server,
    ):
        yield Scene(server, collector)


def test_the_steps_of_a_request_hang_below_each_other(scene: Scene):
    request, tried, call, journal = scene.trace(CALLER)
    assert (request.name, request.kind) == ("POST /v1/programs/{program}/predict", "SERVER")
    assert (tried.name, tried.kind, tried.parent_id) == ("invoke_workflow triage", "INTERNAL", request.span_id)
    assert (call.name, call.kind, call.parent_id) == ("chat triage", "CLIENT", tried.span_id)
    assert (journal.name, journal.kind, journal.parent_id) == ("journal append", "INTERNAL", request.span_id)


def test_a_step_lies_within_the_step_above_it(scene: Scene):
    for root in roots(scene.spans):
        request, tried, call, journal = scene.trace(root.trace_id)
        around = 10**6  # ns: the request begins by the wall clock, its steps are reckoned back from the other one
        assert request.began - around <= tried.began <= call.began < call.ended <= tried.ended + around
        assert tried.ended - around <= journal.began < journal.ended <= request.ended + around


def test_the_trace_of_a_caller_is_continued_and_others_get_their_own(scene: Scene):
    continued = scene.trace(CALLER)[0]
    assert (continued.parent_id, continued.state) == ("b7ad6b7169203331", "shop=t61")
    begun = [span for span in roots(scene.spans) if span.trace_id != CALLER]
    assert {span.parent_id for span in begun} == {""}
    assert len({span.trace_id for span in begun}) == ENOUGH


def test_a_call_is_told_by_the_conventions_names(scene: Scene):
    call = next(span for span in scene.trace(CALLER) if span.kind == "CLIENT")
    usage = scene.answer["usage"]
    assert call.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "sim",
        "gen_ai.request.model": "triage",
        "gen_ai.response.model": "simulated:sim/triage",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": usage["input_tokens"],
        "gen_ai.usage.output_tokens": usage["output_tokens"],
        "ratchet.cost_usd": scene.answer["cost_usd"],
        "ratchet.program": "triage",
        "ratchet.variant": "base",
        "ratchet.assigned_variant": "base",
        "ratchet.prediction_id": scene.answer["prediction_id"],
    }
    assert call.resource["service.name"] == "ratchet"


def test_no_content_leaves_unasked(scene: Scene):
    assert scene.bodies
    for word in (TICKET.encode(), b"Classify the support", b"[[ ##", b"gen_ai.input.messages"):
        assert word not in scene.bodies


def test_the_trace_is_found_from_the_prediction(scene: Scene):
    assert scene.stored(scene.answer)["trace_id"] == CALLER
    own = {scene.stored(answer)["trace_id"] for answer in scene.others}
    assert own == {span.trace_id for span in roots(scene.spans)} - {CALLER}


def test_the_trace_is_found_from_the_log(scene: Scene):
    lines = [json.loads(line) for line in scene.server.log.read_text().splitlines() if line.startswith("{")]
    answered = [line for line in lines if line["event"] == "request_answered" and line["path"].endswith("/predict")]
    assert {line["trace_id"] for line in answered} == {span.trace_id for span in roots(scene.spans)}


def test_the_trace_is_found_from_the_metrics(scene: Scene):
    counted = [line for line in scene.metrics.splitlines() if line.startswith("ratchet_prediction_duration_seconds_b")]
    shown = {line.partition('# {trace_id="')[2][:32] for line in counted} - {""}
    assert shown
    assert shown <= {span.trace_id for span in roots(scene.spans)}


def test_prompts_and_answers_are_sent_where_they_are_asked_for(tmp_path: Path):
    asked = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}
    with Collector() as collector, serving(tmp_path, **collector.environment, **asked) as server:
        with server.client() as http:
            answer = predicted(http)
        spans = collector.await_spans(roots)
    told = next(span.attributes for span in spans if span.kind == "CLIENT")
    system, user = json.loads(told["gen_ai.input.messages"])
    assert (system["role"], user["role"]) == ("system", "user")
    assert "Classify the support ticket." in system["parts"][0]["content"]
    assert TICKET in user["parts"][0]["content"]
    (said,) = json.loads(told["gen_ai.output.messages"])
    assert (said["role"], said["finish_reason"], said["parts"][0]["type"]) == ("assistant", "stop", "text")
    assert answer["output"]["category"] in said["parts"][0]["content"]


def test_what_is_queued_is_sent_before_the_server_ends(tmp_path: Path):
    late = {"OTEL_BSP_SCHEDULE_DELAY": "60000"}
    with Collector() as collector, serving(tmp_path, **{**collector.environment, **late}) as server:
        with server.client() as http:
            predicted(http)
        assert not collector.spans
        assert server.stop() == 0
        assert len(roots(collector.spans)) == 1


@pytest.mark.parametrize(
    ("status", "seconds"), [(503, 0.0), (200, 60.0), (None, 0.0)], ids=["refusing", "never answering", "gone"]
)
def test_a_collector_that_fails_harms_no_request_and_is_mentioned_once(
    tmp_path: Path, status: int | None, seconds: float
):
    collector = Collector(status=status or 200, seconds=seconds)
    small = {"OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    with collector:
        if status is None:
            collector.close()
        with serving(tmp_path, **collector.environment, **small) as server:
            with server.client() as http:
                for _ in range(5 * ENOUGH):
                    predicted(http)
                until = time.monotonic() + 30
                while not mentions(server):
                    assert time.monotonic() < until
                    time.sleep(0.05)
                for _ in range(ENOUGH):
                    predicted(http)
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 20
            assert mentions(server) == 1
            assert "opentelemetry" not in server.log.read_text()


def mentions(server: RunningServer) -> int:
    return server.log.read_text().count("traces_not_delivered")
