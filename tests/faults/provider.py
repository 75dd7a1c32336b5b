"""A provider of language models on loopback, whose every fault is scripted: it speaks the OpenAI chat protocol."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWER = "[[ ## category ## ]]\nbug\n\n[[ ## completed ## ]]"


class Request(BaseHTTPRequestHandler):
    """One request to the provider, and the ways to answer it."""

    protocol_version = "HTTP/1.1"
    server: "Provider"

    def do_POST(self) -> None:
        model = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["model"]
        self.server.calls[model] += 1
        self.server.faults.get(model, answering())(self)

    def send(self, status: int, body: Any) -> None:
        """A whole response."""
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""


Fault = Callable[[Request], None]


class Provider(ThreadingHTTPServer):
    """`faults` says by model how it answers, well by default; `calls` counts the requests of each model."""

    request_queue_size = 256
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.faults: dict[str, Fault] = {}
        self.calls: Counter[str] = Counter()

    @property
    def url(self) -> str:
        """What to write as `api_base`."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up is what tests are about; nothing is printed."""


@contextmanager
def providing() -> Iterator[Provider]:
    """A provider that answers until the block is left."""
    with Provider() as provider:
        thread = threading.Thread(target=provider.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield provider
        finally:
            provider.shutdown()
            thread.join()


def answering(text: str = ANSWER, after: float = 0.0) -> Fault:
    """A proper response with this text, so many seconds late."""

    def answer(request: Request) -> None:
        time.sleep(after)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        request.send(200, {"id": "1", "model": "mock", "choices": [choice], "usage": usage})

    return answer


def refusing(status: int) -> Fault:
    """An error as providers send it."""
    return lambda request: request.send(status, {"error": {"message": f"the scripted {status}", "type": "scripted"}})


def babbling(payload: bytes) -> Fault:
    """A success whose body is not what the protocol promises."""
    return lambda request: request.send(200, payload)


def hanging_up(request: Request) -> None:
    """Close the connection without a word."""
    request.connection.shutdown(socket.SHUT_RDWR)
    request.close_connection = True
