"""Server-sent events: messages as they come, a comment now and then in a silence, an end when the server stops.

A stream is as good as the key it was asked for with: it ends once that is revoked. Each looks into the database twice a
second, so there may only be so many.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from litestar import Litestar, Request
from litestar.exceptions import NotAuthorizedException
from litestar.openapi import ResponseSpec
from litestar.response import Stream

from experiments.errors import Busy, RatchetError
from server.auth import actor

MEDIA_TYPE = "text/event-stream"
_LOOK_EVERY = 0.5
"""Seconds to wait where there is nothing new."""
_BEAT_EVERY = 15.0
"""Seconds of silence after which a comment is sent, so that nothing in between takes the connection for dead."""
MOST = 50
"""Streams at a time."""


class Message(msgspec.Struct, frozen=True):
    """One event: its name, its JSON, and the id by which a listener says where to go on."""

    event: str
    data: bytes
    id: int | str | None = None

    def encoded(self) -> bytes:
        """As it is sent. JSON holds no line break."""
        numbered = b"" if self.id is None else f"id: {self.id}\n".encode()
        return numbered + f"event: {self.event}\n".encode() + b"data: " + self.data + b"\n\n"


def stop_streams(app: Litestar) -> None:
    """End every stream soon: the server was told to stop, and would wait for them. Safe in a signal handler."""
    app.state.stopping = True


def stream(messages: AsyncIterator[Message | None], request: Request[Any, Any, Any]) -> Stream:
    """The answer that sends `messages`; None among them says that nothing is new, and is waited upon.

    Raises: Busy when there are too many.
    """
    if request.app.state.get("streams", 0) >= MOST:
        raise Busy(f"{MOST} streams are open already; read what you need by GET, or try again", retry_after=10.0)
    return Stream(
        _sent(messages, request),
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _sent(messages: AsyncIterator[Message | None], request: Request[Any, Any, Any]) -> AsyncIterator[bytes]:
    last, app = time.monotonic(), request.app
    app.state.streams = app.state.get("streams", 0) + 1
    try:
        yield b": Ratchet\n\n"  # at once, so that a listener knows that it is connected
        async for message in messages:
            actor(request)
            if message is not None:
                yield message.encoded()
                last = time.monotonic()
            elif app.state.get("stopping"):
                return
            elif time.monotonic() - last > _BEAT_EVERY:
                yield b": still there\n\n"
                last = time.monotonic()
            else:
                await asyncio.sleep(_LOOK_EVERY)
    except (RatchetError, NotAuthorizedException):
        return  # the database is gone, or the key is revoked: a listener connects again, and is told so
    finally:
        app.state.streams -= 1


def stream_of(kind: type[msgspec.Struct]) -> ResponseSpec:
    """What the document says of an answer that is a stream, `kind` being the JSON of its messages."""
    return ResponseSpec(kind, description="Server-sent events.", media_type=MEDIA_TYPE, generate_examples=False)
