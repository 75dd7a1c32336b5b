"""OpenTelemetry, spoken here alone: spans are made, queued, and sent to a collector by a thread of their own.

To be imported only once a collector is configured: the packages are the extra `otel`. The queue is bounded; when it is
full the oldest spans go, and nobody waits. What the library has to say goes into the log as one line per outage.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from structlog.typing import FilteringBoundLogger

from server.tracing.attributes import Value
from server.tracing.context import Caller
from server.tracing.conventions import ERROR

LONGEST_CLOSE = 5.0
"""Seconds that a collector may keep the process from ending."""


class Export:
    """A provider of spans that belongs to us alone, configured by the standard `OTEL_*` variables.

    Raises: ValueError for a variable that OpenTelemetry cannot use.
    """

    def __init__(self, version: str, log: FilteringBoundLogger) -> None:
        self._troubles = _Troubles(log)
        self._exporter = _Exporter(self._troubles)
        named = {"service.name": "ratchet", "service.version": version, **OTELResourceDetector().detect().attributes}
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("ratchet", version)
        self._troubles.listen()

    def begin(self, name: str, caller: Caller | None, attributes: Mapping[str, Value]) -> Span:
        """The span of a request, begun now, as a part of its caller's trace or a trace of its own."""
        above = Context() if caller is None else set_span_in_context(_remote(caller), Context())
        return self._tracer.start_span(name, above, SpanKind.SERVER, attributes)

    def add(
        self,
        parent: Span,
        name: str,
        began: int,
        ended: int,
        attributes: Mapping[str, Value],
        *,
        error: str | None = None,
        client: bool = False,
    ) -> Span:
        """A span of something that is over; its times are of the monotonic clock, in ns."""
        wall = time.time_ns() - time.perf_counter_ns()
        kind = SpanKind.CLIENT if client else SpanKind.INTERNAL
        context = set_span_in_context(parent, Context())
        span = self._tracer.start_span(name, context, kind, attributes, start_time=wall + began)
        _fail(span, error)
        span.end(wall + ended)
        return span

    def finish(self, span: Span, name: str, attributes: Mapping[str, Value], error: str | None) -> None:
        """A request is over: only now its route is known."""
        span.update_name(name)
        span.set_attributes(attributes)
        _fail(span, error)
        span.end()

    def close(self) -> None:
        """Send what is queued, and stop. Blocks, but not for longer than `LONGEST_CLOSE`."""
        if self._troubles.known:
            self._exporter.shutdown()  # ends its waiting for a collector that is gone
        last = threading.Thread(target=self._provider.shutdown, name="ratchet-last-spans", daemon=True)
        last.start()
        last.join(LONGEST_CLOSE)
        self._troubles.ignore()


def _fail(span: Span, error: str | None) -> None:
    """Mark the span as failed, if it has failed. Only the kind of error is told: what it says may quote a prompt."""
    if error is not None:
        span.set_attribute(ERROR, error)
        span.set_status(Status(StatusCode.ERROR))


def _remote(caller: Caller) -> Span:
    return NonRecordingSpan(
        SpanContext(
            int(caller.trace_id, 16),
            int(caller.span_id, 16),
            is_remote=True,
            trace_flags=TraceFlags(caller.flags),
            trace_state=TraceState.from_header(list(caller.state)),
        )
    )


class _Exporter(OTLPSpanExporter):
    def __init__(self, troubles: "_Troubles") -> None:
        super().__init__()
        self._troubles = troubles

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        if result is SpanExportResult.SUCCESS:
            self._troubles.over()
        return result

    def shutdown(self) -> None:
        if not self._shutdown:  # which its processor asks for once more
            super().shutdown()  # type: ignore[no-untyped-call]  # the one method that they left without types


class _Troubles(logging.Handler):
    """Hears the library, and tells of the first thing that is wrong with a collector until all is well again."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self.known = False
        self._log = log
        self._heard = logging.getLogger("opentelemetry")

    def listen(self) -> None:
        self._heard.addHandler(self)
        self._heard.propagate = False

    def ignore(self) -> None:
        self._heard.removeHandler(self)
        self._heard.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        # What else it warns of is of a caller's making: a `tracestate` that breaks the rules, say.
        if not self.known and record.name.startswith(("opentelemetry.exporter", "opentelemetry.sdk")):
            self.known = True
            self._log.warning("traces_not_delivered", reason=record.getMessage())

    def over(self) -> None:
        if self.known:
            self.known = False
            self._log.info("traces_delivered")
