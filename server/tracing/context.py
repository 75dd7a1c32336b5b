"""Which trace the request at hand belongs to: what its caller said in `traceparent`, or what this server began.

W3C Trace Context, https://www.w3.org/TR/trace-context/, section 3.2; a header that breaks its rules counts as absent.
"""

import re
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

import msgspec

_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


class Caller(msgspec.Struct, frozen=True):
    """The caller's place in its trace. `state` is its `tracestate`, as it came."""

    trace_id: str
    span_id: str
    flags: int
    state: tuple[str, ...] = ()

    @property
    def sampled(self) -> bool:
        """Whether the caller keeps this trace."""
        return bool(self.flags & _SAMPLED)


class Trace(msgspec.Struct, frozen=True, eq=False):
    """The trace that a request belongs to. `span` is OpenTelemetry's span of the request; None where none is made."""

    trace_id: str
    sampled: bool
    span: Any = None


TRACE: ContextVar[Trace | None] = ContextVar("trace", default=None)
"""The trace of the request at hand; None outside of requests, and where nobody traces."""


def trace_id() -> str | None:
    """The id of the trace of the request at hand: 32 hexadecimal digits."""
    return None if (trace := TRACE.get()) is None else trace.trace_id


def exemplar() -> str | None:
    """As `trace_id`, if that trace is kept: an exemplar should lead somewhere."""
    return None if (trace := TRACE.get()) is None or not trace.sampled else trace.trace_id


def caller(headers: Iterable[tuple[bytes, bytes]]) -> Caller | None:
    """What the headers (names in lower case) say of the caller's trace; None when they say nothing, or nonsense."""
    given = [value for name, value in headers if name == b"traceparent"]
    if len(given) != 1 or (match := _TRACEPARENT.fullmatch(given[0])) is None:
        return None
    version, trace, span, flags, more = match.groups()
    if version == b"00" and more:  # later versions may say more, this one may not
        return None
    state = tuple(value.decode("latin-1") for name, value in headers if name == b"tracestate")
    return Caller(trace.decode(), span.decode(), int(flags, 16), state)
