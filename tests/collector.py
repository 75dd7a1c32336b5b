"""A collector of traces for tests: OTLP over HTTP, decoded with OpenTelemetry's own protobuf messages."""

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Encoded
from opentelemetry.proto.trace.v1.trace_pb2 import Status


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One span as a collector sees it; ids in hexadecimal, `parent_id` empty for a root, times in ns."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    began: int
    ended: int
    failed: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]


class Collector:
    """One collector at `endpoint` from when the block is entered; `spans` are those received so far.

    It answers with `status` after `seconds`: a test makes it refuse or dawdle.
    """

    def __init__(self, *, status: int = 200, seconds: float = 0.0) -> None:
        self.status, self.seconds = status, seconds
        self.spans: list[Span] = []
        self.asked = 0
        self.bodies: list[bytes] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        """What a server is told so that it sends its spans here, soon after they ended."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50", "NO_PROXY": "127.0.0.1"}

    def close(self) -> None:
        """Be gone: connections are refused from now on."""
        self._http.shutdown()
        self._http.server_close()

    def await_spans(self, enough: Callable[[list[Span]], object]) -> list[Span]:
        """The spans once there are enough of them; half a minute at most."""
        until = time.monotonic() + 30
        while not enough(self.spans):
            assert time.monotonic() < until, f"waited in vain; these have come: {[span.name for span in self.spans]}"
            time.sleep(0.02)
        return list(self.spans)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.asked += 1
                time.sleep(collector.seconds)
                assert self.path == "/v1/traces", self.path
                assert self.headers["Content-Type"] == "application/x-protobuf"
                if collector.status == 200:
                    collector.bodies.append(body)
                    collector.spans += _decoded(body)
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- its name in http.server
                pass

        return Handler

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _decoded(body: bytes) -> list[Span]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        Span(
            name=span.name,
            kind=Encoded.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            state=span.trace_state,
            began=span.start_time_unix_nano,
            ended=span.end_time_unix_nano,
            failed=span.status.code == Status.STATUS_CODE_ERROR,
            attributes={pair.key: _value(pair.value) for pair in span.attributes},
            resource={pair.key: _value(pair.value) for pair in group.resource.attributes},
        )
        for group in request.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    assert kind is not None
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)
