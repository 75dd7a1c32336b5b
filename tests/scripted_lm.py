"""The one fake language model of all tests: it says what a test tells it to, through the real DSPy, metered as usual.

lm = ScriptedLm(lambda model, prompt: chat(category="bug"))
runner = Runner(open_lm=lm.open)
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import dspy
import msgspec
from dspy.lm15 import LM15Error, Message, Request, Response, Usage

from learning.definitions import LmSettings
from learning.lms import Lm, MeteredLM, Slots


class Reply(msgspec.Struct, frozen=True):
    """One answer: its text, how long it takes, and what it is billed as."""

    text: str
    seconds: float = 0.0
    input_tokens: int = 100
    output_tokens: int = 10


Script = Callable[[str, str], str | Reply | LM15Error]
"""From the model's name and the whole prompt to what the model says; an error is raised."""


class ScriptedLm:
    """Asks the script once per LM call; `asked` keeps the (model, prompt) of each."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[tuple[str, str]] = []

    def open(self, settings: LmSettings) -> Lm:
        """In place of `learning.lms.open_lm`."""
        model = MeteredLM(
            settings.model,
            price=settings.price,
            num_retries=settings.num_retries,
            engine=_Engine(self),
            async_engine=_AsyncEngine(self),
        )
        return Lm(settings, model, dspy.ChatAdapter(), Slots(settings.max_concurrency))

    def reply(self, request: Request) -> Reply:
        """What the script says to a request."""
        turns = [part.text for message in request.messages for part in message.parts if hasattr(part, "text")]
        self.asked.append((request.model, "\n".join([str(request.system), *turns])))
        said = self.script(*self.asked[-1])
        if isinstance(said, LM15Error):
            raise said
        return said if isinstance(said, Reply) else Reply(said)


def chat(**fields: Any) -> str:
    """An answer in the form that DSPy's ChatAdapter asks for."""
    return "\n\n".join([*(f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items()), "[[ ## completed ## ]]"])


class _Engine:
    def __init__(self, lm: ScriptedLm) -> None:
        self._lm = lm

    def complete(self, request: Request) -> Response:
        reply = self._lm.reply(request)
        time.sleep(reply.seconds)
        return _response(request, reply)


class _AsyncEngine:
    def __init__(self, lm: ScriptedLm) -> None:
        self._lm = lm

    async def complete(self, request: Request) -> Response:
        reply = self._lm.reply(request)
        if reply.seconds:
            await asyncio.sleep(reply.seconds)
        return _response(request, reply)


def _response(request: Request, reply: Reply) -> Response:
    usage = Usage(input_tokens=reply.input_tokens, output_tokens=reply.output_tokens)
    return Response(
        id=None, model=request.model, message=Message.assistant(reply.text), finish_reason="stop", usage=usage
    )
