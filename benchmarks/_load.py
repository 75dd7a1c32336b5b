"""A closed-loop HTTP load on loopback: so many clients, each sending its next request when its last one is answered."""

import asyncio
import json
import time
from collections.abc import Callable
from statistics import quantiles
from typing import Any

import msgspec

Body = Callable[[int], bytes]
"""The body of request number n."""


class Load(msgspec.Struct, frozen=True):
    """What a load measured: answers with status 2xx, others, seconds, and every latency in seconds."""

    answered: int
    failed: int
    seconds: float
    latencies: list[float]
    answers: list[bytes]

    def summary(self) -> dict[str, Any]:
        """Requests per second and latency quantiles in milliseconds."""
        cuts = quantiles(self.latencies, n=100, method="inclusive") if len(self.latencies) > 1 else self.latencies * 99
        return {
            "requests": self.answered,
            "failed": self.failed,
            "requests_per_s": round(self.answered / self.seconds, 1),
            **{f"p{q}_ms": round(cuts[q - 1] * 1e3, 2) for q in (50, 95, 99)},
        }


async def run(
    port: int, path: str, body: Body, *, clients: int, seconds: float, most: int | None = None, keep: bool = False
) -> Load:
    """POST to 127.0.0.1:`port` for `seconds`, or until `most` requests were sent. `keep` keeps the answers' bodies."""
    latencies: list[float] = []
    answers: list[bytes] = []
    counts = {"sent": 0, "failed": 0}
    began = time.perf_counter()
    until = began + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < until and (most is None or counts["sent"] < most):
            number = counts["sent"]
            counts["sent"] += 1
            start = time.perf_counter()
            status, answer = await exchange(reader, writer, path, body(number))
            latencies.append(time.perf_counter() - start)
            if keep:
                answers.append(answer)
            if not 200 <= status < 300:
                counts["failed"] += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    seconds = time.perf_counter() - began
    return Load(len(latencies) - counts["failed"], counts["failed"], seconds, latencies, answers)


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: bytes
) -> tuple[int, bytes]:
    """One request on an open connection: status and body. Far cheaper than a client library, so it hides less."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    length = next(int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:"))
    return int(lines[0].split(b" ")[1]), await reader.readexactly(length)


def prediction_body(number: int) -> bytes:
    """The body of a predict request with its own text and unit."""
    return json.dumps({"input": {"text": f"Ticket {number}: the invoice is wrong"}, "unit": f"user-{number}"}).encode()
