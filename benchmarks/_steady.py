"""A steady load on loopback: requests leave at their times, whether or not those before them were answered."""

import asyncio
import time
from collections import deque

from benchmarks._load import Body, exchange

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def steady(port: int, path: str, body: Body, *, rate: float, seconds: float, warm: float) -> list[float]:
    """Latencies in seconds of `rate` requests per second to 127.0.0.1:`port`, of those sent after the `warm` seconds.

    Counted from when a request was due, so that a server that stalls is not spared what it kept waiting. Raises:
    RuntimeError when a request is refused, TimeoutError when one is not answered within a minute of the last.
    """
    free: deque[_Connection] = deque()  # in turn, so that none is idle for so long that the server closes it
    began = time.perf_counter()

    async def one(number: int) -> float:
        due = began + number / rate
        await asyncio.sleep(due - time.perf_counter())
        connection = free.popleft() if free else await asyncio.open_connection("127.0.0.1", port)
        await exchange(*connection, path, body(number))
        free.append(connection)
        return time.perf_counter() - due

    async with asyncio.timeout(warm + seconds + 60):
        found = await asyncio.gather(*(one(number) for number in range(round(rate * (warm + seconds)))))
    for _, writer in free:
        writer.close()
    return found[round(rate * warm) :]
