"""Modules as operators write them: a sound one of several steps, and one for each way to get it wrong."""

import asyncio
import contextlib
import sys
from typing import Any

import dspy

from learning.definitions import ProgramDefinition
from learning.programs import load


class Research(dspy.Module):  # type: ignore[misc]  # DSPy ships no types
    """Takes notes until it knows enough, at most `steps` times, then answers: a variable number of LM calls."""

    signature = "question: str, steps: int -> answer: str, sources: list[str]"

    def __init__(self) -> None:
        super().__init__()
        self.note = dspy.Predict("question: str, notes: list[str] -> note: str, enough: bool")
        self.answer = dspy.ChainOfThought("question: str, notes: list[str] -> answer: str")

    async def aforward(self, question: str, steps: int) -> dspy.Prediction:
        notes: list[str] = []
        for _ in range(steps):
            taken = await self.note.acall(question=question, notes=notes)
            notes.append(taken.note)
            if taken.enough:
                break
        final = await self.answer.acall(question=question, notes=notes)
        return dspy.Prediction(answer=final.answer, sources=notes)


class Synchronous(dspy.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict("ticket: str -> category: str")

    def forward(self, ticket: str) -> dspy.Prediction:
        return self.predict(ticket=ticket)


class Careless(dspy.Module):  # type: ignore[misc]
    """Gives its predictor a text where numbers are expected."""

    signature = "ticket: str -> category: str"

    def __init__(self) -> None:
        super().__init__()
        self.sort = dspy.Predict("numbers: list[int] -> category: str")

    async def aforward(self, ticket: str) -> dspy.Prediction:
        return await self.sort.acall(numbers=ticket)


class Misbehaving(dspy.Module):  # type: ignore[misc]
    """Does what its input says."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict("deed: str -> category: str")

    async def aforward(self, deed: str) -> Any:
        return await getattr(self, deed)()

    async def fail(self) -> None:
        raise KeyError("the module's own bug")

    async def fail_unspeakably(self) -> None:
        raise RuntimeError("a\0b \ud83d c")

    async def leave(self) -> None:
        sys.exit(3)

    async def cancel(self) -> None:
        raise asyncio.CancelledError

    async def fail_in_a_group(self) -> None:
        async with asyncio.TaskGroup() as steps:
            steps.create_task(self.fail())

    async def cling(self) -> dspy.Prediction:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(30)
        return dspy.Prediction(category="late")

    async def say_text(self) -> str:
        return "a text"

    async def say_nothing(self) -> dspy.Prediction:
        return dspy.Prediction()

    async def say_a_number(self) -> dspy.Prediction:
        return dspy.Prediction(category=10**30)

    async def say_half_a_pair(self) -> dspy.Prediction:
        return dspy.Prediction(category="half \ud83d pair")


class NeedsArguments(Synchronous):
    def __init__(self, retriever: object) -> None:
        super().__init__()
        self.retriever = retriever


class Exits(dspy.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        sys.exit("no database here")


class Empty(dspy.Module):  # type: ignore[misc]
    async def aforward(self, ticket: str) -> dspy.Prediction:
        return dspy.Prediction(category=ticket)


class OwnLm(Synchronous):
    def __init__(self) -> None:
        super().__init__()
        self.set_lm(dspy.LM("openai/gpt-5-mini", api_key="sk-secret"))


class Frozen(dspy.Module):  # type: ignore[misc]
    signature = "ticket -> category"

    def __init__(self) -> None:
        super().__init__()
        self.classify = load(ProgramDefinition(signature="ticket -> category", lm="sim/triage"))
        self.classify._compiled = True

    async def aforward(self, ticket: str) -> dspy.Prediction:
        return await self.classify.acall(ticket=ticket)


class Unrunnable(dspy.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict("ticket -> category")


class OtherInputs(Synchronous):
    signature = "ticket, tone -> category"


class SeveralWithoutSignature(dspy.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.one = dspy.Predict("a -> b")
        self.two = dspy.Predict("b -> c")

    async def aforward(self, a: str) -> dspy.Prediction:
        return await self.two.acall(b=(await self.one.acall(a=a)).b)


def not_a_class() -> None: ...


class Steps(dspy.Module):  # type: ignore[misc]
    """Two steps, of which either can be improved; asynchronous only."""

    signature = "ticket: str -> category: Literal['billing', 'bug', 'how-to', 'other']"

    def __init__(self) -> None:
        super().__init__()
        self.read = dspy.Predict("ticket: str -> gist: str")
        self.sort = dspy.Predict("ticket: str, gist: str -> category: Literal['billing', 'bug', 'how-to', 'other']")

    async def aforward(self, ticket: str) -> dspy.Prediction:
        gist = (await self.read.acall(ticket=ticket)).gist
        return await self.sort.acall(ticket=ticket, gist=gist)
