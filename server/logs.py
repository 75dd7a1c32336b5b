"""Structured logs: an event is a past-tense name and fields, as text for people or JSON for machines.

No input, output, comment, unit or key is ever a field. The id of the request at hand, and that of the trace it belongs
to, are added to every event by themselves.
"""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from time import perf_counter
from typing import TextIO, cast
from urllib.parse import quote

import msgspec
import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from server.clock import new_id
from server.settings import Settings
from server.tracing.context import trace_id

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request at hand, None outside of requests."""

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_SANE = re.compile(rb"[A-Za-z0-9._-]{1,128}")


def logger(settings: Settings) -> FilteringBoundLogger:
    """The process's logger, writing to standard error."""
    render: Processor = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    if settings.log_format == "json":
        render = structlog.processors.JSONRenderer(serializer=_json)
    proxy = structlog.wrap_logger(
        structlog.WriteLogger(cast(TextIO, _Stderr())),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_ids,
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.log_level]),
    )
    log: FilteringBoundLogger = proxy.bind()  # the proxy would be resolved anew for every event
    return log


@contextmanager
def listening(log: FilteringBoundLogger) -> Iterator[None]:
    """Hear what libraries log as warnings or worse (a scheduler's missed run is nothing but such a line)."""
    handler = _Listener(log)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


class Requests:
    """An ASGI layer around the application: gives every request its id, answers with it, and logs how it ended.

    A caller's own `X-Request-ID` is kept. Answers below 400 are logged at level debug, others at info, 5xx at warning.
    """

    def __init__(self, app: ASGIApp, log: FilteringBoundLogger) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given.decode() if _SANE.fullmatch(given) else new_id()
        began = perf_counter()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
                self._answered(scope["method"], scope["path"], message["status"], perf_counter() - began)
            await send(message)

        token = REQUEST_ID.set(request_id)
        try:
            await self._app(scope, receive, answer)
        finally:
            REQUEST_ID.reset(token)

    def _answered(self, method: str, path: str, status: int, seconds: float) -> None:
        write = self._log.debug if status < 400 else self._log.info if status < 500 else self._log.warning
        # Quoted again, so that no path can break out of its line.
        write("request_answered", method=method, path=quote(path), status=status, ms=round(seconds * 1000, 2))


class _Stderr:
    """Standard error. A line it cannot take (disk full, reader gone) is lost: no log may break what it reports on."""

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()


class _Listener(logging.Handler):
    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.warning("library_warned", library=record.name, message=record.getMessage())


def _add_ids(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if request_id := REQUEST_ID.get():
        event["request_id"] = request_id
    if trace := trace_id():
        event["trace_id"] = trace
    return event


def _json(event: EventDict, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()
