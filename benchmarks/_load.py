"""A closed-loop HTTP load on loopback: so many clients, each sending its next request when its last one is answered."""

import asyncio
import json
import time
from collections.abc import Callable
from statistics import quantiles
from typing import Any

import msgspec
import psutil

Body = Callable[[int], bytes]
"""The body of request number n."""


class Load(msgspec.Struct, frozen=True):
    """What a load measured within its window.

    `latencies` of its answers in seconds, its length in `seconds`, and the `cpu` seconds that the server's process used
    in it. `acknowledged` counts the answers outside of it too.
    """

    latencies: list[float]
    seconds: float
    cpu: float
    acknowledged: int

    def summary(self) -> dict[str, Any]:
        """Requests per second, latency quantiles in milliseconds, processor time per 1,000 requests."""
        answered = len(self.latencies)
        return {
            "requests": answered,
            "requests_per_s": round(answered / self.seconds, 1),
            **{f"p{q}_ms": round(percentile(self.latencies, q) * 1e3, 2) for q in (50, 95, 99)},
            "cpu_s_per_1000": round(1000 * self.cpu / max(1, answered), 3),
        }


def percentile(values: list[float], q: int) -> float:
    """The `q`-th of a hundred parts, `q` from 1 to 99."""
    return quantiles(values, n=100, method="inclusive")[q - 1] if len(values) > 1 else (*values, 0.0)[0]


async def run(
    port: int,
    path: str,
    body: Body,
    *,
    clients: int,
    seconds: float,
    warm: float = 0.0,
    most: int | None = None,
    server: psutil.Process | None = None,
) -> Load:
    """POST to 127.0.0.1:`port` and watch for `seconds`, or until `most` requests were sent.

    The clients begin one after the other over the `warm` seconds before the window: real ones do not march in step.
    Raises: RuntimeError when a request is refused.
    """
    latencies: list[float] = []
    counts = {"sent": 0, "acknowledged": 0}
    opening = time.perf_counter() + warm
    closing = opening + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(warm * number / clients)
        while (began := time.perf_counter()) < closing and (most is None or counts["sent"] < most):
            counts["sent"] += 1
            await exchange(reader, writer, path, body(counts["sent"]))
            counts["acknowledged"] += 1
            if opening <= (ended := time.perf_counter()) <= closing:
                latencies.append(ended - began)
        writer.close()

    cpu = asyncio.create_task(_cpu_between(server, opening, closing))
    await asyncio.gather(*(client(number) for number in range(clients)))
    ended = min(time.perf_counter(), closing)
    cpu.cancel()
    spent = (await asyncio.gather(cpu, return_exceptions=True))[0]
    used = spent if isinstance(spent, float) else 0.0
    return Load(latencies, ended - opening, used, counts["acknowledged"])


async def _cpu_between(server: psutil.Process | None, opening: float, closing: float) -> float:
    """Processor seconds that `server` used between two times."""
    if server is None:
        return 0.0
    await asyncio.sleep(opening - time.perf_counter())
    before = cpu_seconds(server)
    await asyncio.sleep(closing - time.perf_counter())
    return cpu_seconds(server) - before


def cpu_seconds(process: psutil.Process) -> float:
    """Processor time a process has used so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: bytes) -> bytes:
    """One request on an open connection: the answer's body. Far cheaper than a client library, so it hides less.

    Raises: RuntimeError when it is refused.
    """
    host, port = writer.get_extra_info("peername")
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(answer.partition(b"content-length:")[2].partition(b"\r\n")[0])
    found = await reader.readexactly(length)
    if not answer.startswith(b"http/1.1 2"):
        raise RuntimeError(f"{path} was refused: {found!r}")
    return found


async def set_delay(port: int, seconds: float) -> None:
    """Let the mock language model answer after so long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await exchange(reader, writer, f"/delay/{seconds}", b"{}")
    writer.close()


def prediction_body(number: int) -> bytes:
    """The body of a predict request with its own text and unit."""
    return json.dumps({"input": {"text": f"Ticket {number}: the invoice is wrong"}, "unit": f"user-{number}"}).encode()
