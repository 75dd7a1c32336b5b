"""What Ratchet's serving is measured beside: the same DSPy program without a server, and in the plainest web framework.

`python -m benchmarks._rivals bare PORT CLIENTS SECONDS` runs `await program.acall()` in a closed loop and prints its
JSON; `python -m benchmarks._rivals fastapi PORT` serves it and prints its own port. PORT is that of the mock language
model. Neither assigns, records nor stores anything.
"""

import asyncio
import json
import resource
import sys
import time
from typing import Any

import dspy
import uvicorn
from dspy import lm15
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks._load import Load


def program(port: int) -> dspy.Module:
    """The benchmark's program on the mock, declared the way that costs DSPy least."""
    lm15.register_provider(
        lm15.ProviderDefinition.chat(
            lm15.AccessPolicy(provider="mock", base_url=f"http://127.0.0.1:{port}/v1"),
            compat=lm15.OpenAIChatCompat.preset("vllm"),
            placeholder_key="none",
        ),
        supports=lm15.ModelSupport(response_schema=True),
    )
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    dspy.configure(lm=dspy.LM("mock/mock", cache=False, num_retries=0), disable_history=True)
    return dspy.Predict("text -> label")


async def bare(port: int, clients: int, seconds: float) -> dict[str, Any]:
    """The closed loop without any server."""
    asked = program(port)
    latencies: list[float] = []
    until = time.perf_counter() + seconds
    cpu, began = time.process_time(), time.perf_counter()

    async def client(number: int) -> None:
        while (start := time.perf_counter()) < until:
            await asked.acall(text=f"Ticket {number}: the invoice is wrong")
            latencies.append(time.perf_counter() - start)

    await asyncio.gather(*(client(number) for number in range(clients)))
    load = Load(len(latencies), 0, time.perf_counter() - began, latencies, [])
    spent = time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**load.summary(), "cpu_s_per_1000": round(1000 * spent / len(latencies), 3), "rss_mb": round(memory)}


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


async def serve(app: Any) -> None:
    """Serve on a free port until stopped, and print that port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", access_log=False))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await serving


if __name__ == "__main__":
    what, lm_port, *rest = sys.argv[1:]
    if what == "bare":
        print(json.dumps(asyncio.run(bare(int(lm_port), int(rest[0]), float(rest[1])))))
    else:
        asyncio.run(serve(fastapi(int(lm_port))))
