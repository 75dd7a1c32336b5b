"""An OpenAI-compatible language model that answers at once, or after a delay: a stand-in, and said to be one.

Run as `python -m benchmarks._mock_lm`: it takes a free port on loopback and prints it. The delay can be changed while
it runs (`POST /delay/SECONDS`), so that one process serves a whole benchmark. It speaks just enough HTTP to cost the
machine little: what is measured is not it.
"""

import asyncio
import json
from typing import cast

import uvloop

ANSWER = json.dumps(
    {
        "id": "mock",
        "object": "chat.completion",
        "created": 0,
        "model": "mock",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "[[ ## label ## ]]\nbilling\n\n[[ ## completed ## ]]"},
            }
        ],
        "usage": {"prompt_tokens": 120, "completion_tokens": 12, "total_tokens": 132},
    }
).encode()
HEAD = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(ANSWER)}\r\n\r\n".encode()
DELAY = b"POST /delay/"


class MockLm:
    """The model, shared by all connections. `delay` in seconds."""

    def __init__(self) -> None:
        self.delay = 0.0


class Connection(asyncio.Protocol):
    """One connection, which asks one thing at a time."""

    def __init__(self, lm: MockLm) -> None:
        self._lm = lm
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        """Answer once a whole request is there."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if not found or len(body) < int(length or b"0"):
            return
        self._received = b""
        if head.startswith(DELAY):
            self._lm.delay = float(head.removeprefix(DELAY).partition(b" ")[0])
            self._answer()
        elif self._lm.delay:
            asyncio.get_running_loop().call_later(self._lm.delay, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        if self._transport is not None:
            self._transport.write(HEAD + ANSWER)


async def serve() -> None:
    """Serve on a free port until stopped, and print that port."""
    lm = MockLm()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(lm), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
