"""The outermost ASGI layer: finds out which trace a request belongs to, and makes its span."""

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from server.tracing import conventions as name
from server.tracing.attributes import Value
from server.tracing.context import TRACE, Caller, Trace, caller
from server.tracing.tracing import Tracing

_LOOKS = ("GET", "HEAD", "OPTIONS")
"""Requests that only look get no span of their own: probes, scrapes and pages would drown the rest."""


class Traced:
    """Gives every request its trace: the caller's, or where spans are made and the caller has none, a new one."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        sender = caller(scope["headers"])
        if self._tracing.on and scope["method"] not in _LOOKS:
            await self._spanned(scope, receive, send, sender)
        elif sender is not None:
            await self._within(Trace(sender.trace_id, sender.sampled), scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _spanned(self, scope: HTTPScope, receive: Receive, send: Send, sender: Caller | None) -> None:
        about: dict[str, Value] = {name.METHOD: scope["method"], name.PATH: scope["path"], name.SCHEME: scope["scheme"]}
        trace = self._tracing.begin(scope["method"], sender, about)
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._within(trace, scope, receive, answer)
        finally:
            self._tracing.end(trace, scope["method"], scope.get("path_template"), status)

    async def _within(self, trace: Trace, scope: Scope, receive: Receive, send: Send) -> None:
        token = TRACE.set(trace)
        try:
            await self._app(scope, receive, send)
        finally:
            TRACE.reset(token)
