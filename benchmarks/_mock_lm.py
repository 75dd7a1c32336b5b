"""An OpenAI-compatible language model that answers at once, or after `--delay` seconds: a stand-in, and said to be one.

Run as `python -m benchmarks._mock_lm`: it takes a free port on loopback and prints it. The delay can be changed while
it runs (`POST /delay/SECONDS`), so that one process serves a whole benchmark.
"""

import asyncio
import json
from typing import Any

import uvicorn

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


class MockLm:
    """The ASGI application. `delay` in seconds."""

    def __init__(self) -> None:
        self.delay = 0.0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        if scope["path"].startswith("/delay/"):
            self.delay = float(scope["path"].removeprefix("/delay/"))
        elif self.delay:
            await asyncio.sleep(self.delay)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": ANSWER})


async def serve() -> None:
    """Serve on a free port until stopped, and print that port."""
    server = uvicorn.Server(uvicorn.Config(MockLm(), port=0, log_level="warning", access_log=False, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await serving


if __name__ == "__main__":
    asyncio.run(serve())
