"""What is traced: a request, in it each variant's try, in that each call of a language model; then the journal.

All but the request's own span are made when what they tell of is over, from the times that it took.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from structlog.typing import FilteringBoundLogger

from experiments.facts import Prediction
from learning.trails import Trail
from server.tracing import conventions as name
from server.tracing.attributes import Value, call_name, of_call, of_try
from server.tracing.context import TRACE, Caller, Trace

if TYPE_CHECKING:
    from server.tracing.export import Export

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_NOTHING: Mapping[str, Value] = {}


class Tracing:
    """The spans of one process. There are none outside of `exporting`, nor inside where no collector is configured."""

    def __init__(self) -> None:
        self._export: Export | None = None
        self._verbatim = False

    @asynccontextmanager
    async def exporting(self, environ: Mapping[str, str], log: FilteringBoundLogger) -> AsyncIterator[None]:
        """Make spans and send them, if `environ` names a collector, until the end of the block. Nothing here fails."""
        self._export = _opened(environ, log)
        self._verbatim = environ.get(name.CAPTURE_CONTENT, "").lower() in name.CAPTURED
        try:
            yield
        finally:
            export, self._export = self._export, None
            if export is not None:
                await asyncio.to_thread(export.close)

    @property
    def on(self) -> bool:
        """Whether spans are made."""
        return self._export is not None

    def begin(self, title: str, sender: Caller | None, attributes: Mapping[str, Value]) -> Trace:
        """The trace of a request that begins now, with a span of its own. Only while `on`."""
        if self._export is None:
            raise RuntimeError("nothing is traced here")
        span = self._export.begin(title, sender, attributes)
        context = span.get_span_context()
        return Trace(f"{context.trace_id:032x}", context.trace_flags.sampled, span)

    def end(self, trace: Trace, method: str, route: str | None, status: int) -> None:
        """That request was answered with `status`, or, if it is 0, not at all; `route` is what its path was read by."""
        if self._export is None:
            return
        about: dict[str, Value] = {name.ROUTE: route} if route else {}
        if status:
            about[name.STATUS] = status
        error = str(status) if status >= 500 else None
        self._export.finish(trace.span, f"{method} {route}" if route else method, about, error)

    def trail(self) -> Trail | None:
        """To be given to whoever makes a prediction, and then to `predicted`; None where nobody would look at it."""
        span = self._kept_span()
        return None if span is None else Trail(verbatim=self._verbatim)

    def predicted(self, prediction: Prediction, trail: Trail | None) -> None:
        """Tell of a prediction that was made: a span for every try, and in it one for each call.

        It is done a moment later, while the journal waits for its disk; and should it fail, it fails alone.
        """
        if trail is not None:
            asyncio.get_running_loop().call_soon(self._tell, prediction, trail)

    def _tell(self, prediction: Prediction, trail: Trail) -> None:
        span, now = self._kept_span(), time.perf_counter_ns()
        if self._export is None or span is None:
            return
        title = f"{name.INVOKE_WORKFLOW} {prediction.program}"
        for step in trail.tries:
            ended, about = step.ended or now, of_try(prediction, step)
            tried = self._export.add(span, title, step.began, ended, about, error=step.error)
            for call in tuple(step.calls):  # a thread that outlives its deadline may still be adding to it
                said = of_call(prediction, step, call)
                self._export.add(tried, call_name(call), call.began, call.ended, said, error=call.error, client=True)

    @contextmanager
    def step(self, title: str, attributes: Mapping[str, Value] = _NOTHING) -> Iterator[None]:
        """A span of what is done within the block, below the request at hand."""
        span, began, error = self._kept_span(), time.perf_counter_ns(), None
        try:
            yield
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            if self._export is not None and span is not None:
                self._export.add(span, title, began, time.perf_counter_ns(), attributes, error=error)

    def _kept_span(self) -> Any:
        """The span of the request at hand, if it will be exported."""
        trace = TRACE.get() if self._export is not None else None
        return trace.span if trace is not None and trace.sampled else None


def _opened(environ: Mapping[str, str], log: FilteringBoundLogger) -> "Export | None":
    if not _wanted(environ):
        return None
    protocol = next(filter(None, map(environ.get, _PROTOCOLS)), "http/protobuf")
    if protocol != "http/protobuf":
        log.warning("traces_off", reason=f"OTLP over {protocol} is not spoken here; use http/protobuf, on port 4318")
        return None
    try:
        from server.tracing.export import Export  # noqa: PLC0415 -- it needs an extra, which may be missing

        return Export(version("ratchet-server"), log)
    except ImportError as error:
        log.warning("traces_off", reason=f"{error}; a collector is configured: `make setup EXTRAS=otel`")
    except Exception as error:  # noqa: BLE001 -- whatever a variable of OpenTelemetry's does to it, the server starts
        log.warning("traces_off", reason=f"OpenTelemetry refuses its settings: {error}")
    return None


def _wanted(environ: Mapping[str, str]) -> bool:
    """Whether a collector is configured, and OpenTelemetry not switched off."""
    disabled = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    exporters = environ.get("OTEL_TRACES_EXPORTER", "") or "otlp"
    return not disabled and "otlp" in exporters.split(",") and any(map(environ.get, _ENDPOINTS))
