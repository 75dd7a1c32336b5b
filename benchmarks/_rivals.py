"""What Ratchet's serving is measured beside: the same DSPy program without a server, and in the plainest web framework.

`python -m benchmarks._rivals fastapi PORT` serves it and prints its own port; `python -m benchmarks._rivals bare PORT`
runs `await program.acall()` in a closed loop, once for each line `CLIENTS WARM SECONDS` on its standard input, and
prints each result. PORT is that of the mock language model. Neither assigns, records nor stores anything.
"""

import asyncio
import json
import socket
import sys
import time
from typing import Any

import dspy
import psutil
import uvicorn
import uvloop
from dspy import lm15
from dspy.clients.engines.lm15_engine import AsyncLM15Engine, LM15Engine
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks._load import Load, cpu_seconds


def program(port: int) -> dspy.Module:
    """The benchmark's program on the mock, in the way that costs DSPy least and with connections for every client."""
    endpoint = lm15.ProviderDefinition.chat(
        lm15.AccessPolicy(provider="mock", base_url=f"http://127.0.0.1:{port}/v1"),
        compat=lm15.OpenAIChatCompat.preset("vllm"),
        placeholder_key="none",
    )
    config = lm15.RouterConfig(providers=(endpoint,), max_connections=512)
    lm = dspy.LM(
        "mock/mock", cache=False, num_retries=0, engine=LM15Engine(config), async_engine=AsyncLM15Engine(config)
    )
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    dspy.configure(lm=lm, disable_history=True, trace=None)
    return dspy.Predict("text -> label")


async def bare(asked: dspy.Module, clients: int, warm: float, seconds: float) -> dict[str, Any]:
    """The closed loop without any server, its clients beginning as those of `benchmarks._load.run` do."""
    latencies: list[float] = []
    here = psutil.Process()
    opening = time.perf_counter() + warm
    closing = opening + seconds

    async def client(number: int) -> None:
        await asyncio.sleep(warm * number / clients)
        while (began := time.perf_counter()) < closing:
            await asked.acall(text=f"Ticket {number}: the invoice is wrong")
            if opening <= (ended := time.perf_counter()) <= closing:
                latencies.append(ended - began)

    working = asyncio.gather(*(client(number) for number in range(clients)))
    await asyncio.sleep(opening - time.perf_counter())
    before = cpu_seconds(here)
    await asyncio.sleep(closing - time.perf_counter())
    spent = cpu_seconds(here) - before
    await working
    load = Load(latencies, seconds, spent, len(latencies))
    return {**load.summary(), "rss_mb": round(here.memory_info().rss / 2**20)}


async def answering(port: int) -> None:
    """Run a loop for each line that is read."""
    asked = program(port)
    while line := await asyncio.to_thread(sys.stdin.readline):
        clients, warm, seconds = line.split()
        print(json.dumps(await bare(asked, int(clients), float(warm), float(seconds))), flush=True)


class Question(BaseModel):
    """The body of a predict request."""

    input: dict[str, str]
    unit: str


def fastapi(port: int) -> FastAPI:
    """FastAPI around the program."""
    asked, app = program(port), FastAPI()

    @app.post("/predict")
    async def predict(question: Question) -> dict[str, Any]:
        answer = await asked.acall(**question.input)
        return {"output": {"label": answer.label}}

    return app


def serve(app: FastAPI) -> None:
    """Serve until stopped on a free port, which is printed; the HTTP server and its settings are Ratchet's."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(
            app, http="httptools", loop="uvloop", ws="none", log_config=None, access_log=False, server_header=False
        )
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    what, lm_port = sys.argv[1], int(sys.argv[2])
    if what == "bare":
        uvloop.run(answering(lm_port))
    else:
        serve(fastapi(lm_port))
