"""The engine around engines: what is asked is paid for once, within the means, and on record before it is used."""

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dspy.lm15 import ConfigurationError, Message, Request, Response, ServerError, Usage

from learning.engines.ledger import Ledger
from learning.engines.recorded import Account, AsyncRecordedEngine, RecordedEngine
from learning.engines.spending import Spending
from tests.learning.jobs import PRICE, sim


def test_threads_that_ask_the_same_at_the_same_time_are_paid_for_once(tmp_path: Path) -> None:
    """DSPy asks a second time for what takes longer than two minutes."""
    slow, means = Slow(), means_of(tmp_path, 10**12)
    engine = RecordedEngine(slow, Account("student", sim(), {}, means.ledger, means, lambda: 0))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(engine.complete, [asking("well?")] * 4))
    assert {answer.text for answer in answers} == {"yes"}
    assert (slow.asked, means.spent) == (1, PRICE.of(10, 2))
    assert engine.complete(asking("well?")).text == "yes"
    assert slow.asked == 2, "asked again later, it is another sample"


def test_calls_under_way_at_once_do_not_spend_the_same_dollar(tmp_path: Path) -> None:
    limit = 100 * PRICE.of(10, 2)
    slow, means = Slow(), means_of(tmp_path, limit)
    engine = RecordedEngine(slow, Account("student", sim(), {}, means.ledger, means, lambda: 0))

    def ask(number: int) -> str:
        try:
            return str(engine.complete(asking(str(number))).text)
        except ConfigurationError as refusal:
            return str(refusal)

    with ThreadPoolExecutor(8) as pool:
        said = Counter(pool.map(ask, range(130)))
    assert limit - PRICE.of(300, 200) < means.spent <= limit
    assert said.pop("yes") == means.spent // PRICE.of(10, 2)
    assert all("does not cover another call" in refusal for refusal in said)


def test_a_call_cut_short_by_a_deadline_is_entered_at_the_most_it_can_have_cost(tmp_path: Path) -> None:
    class Hanging:
        async def complete(self, request: Request) -> Response:
            await asyncio.sleep(60)
            raise AssertionError(request)

    means = means_of(tmp_path, 10**12)
    engine = AsyncRecordedEngine(Hanging(), Account("student", sim(), {}, means.ledger, means, lambda: 0))

    async def hurried() -> None:
        async with asyncio.timeout(0.01):
            await engine.complete(asking("well?"))

    with pytest.raises(TimeoutError):
        asyncio.run(hurried())
    assert PRICE.of(20, 200) < means.spent < PRICE.of(400, 200)
    again = Ledger(tmp_path / "calls.jsonl", 0)
    assert again.calls["student"] == 1


@pytest.mark.parametrize("fails", [False, True])
def test_an_answer_with_half_an_emoji_is_entered_and_counted(tmp_path: Path, *, fails: bool) -> None:
    class Broken:
        def complete(self, request: Request) -> Response:
            if fails:
                raise ServerError("no \ud83d")
            return Response(
                id="1",
                model=request.model,
                message=Message.assistant("half \ud83d"),
                usage=Usage(input_tokens=10, output_tokens=2),
                finish_reason="stop",
            )

    means = means_of(tmp_path, 10**12)
    engine = RecordedEngine(Broken(), Account("student", sim(), {}, means.ledger, means, lambda: 0))
    if fails:
        with pytest.raises(ServerError):
            engine.complete(asking("well?"))
    else:
        assert engine.complete(asking("well?")).text == "half \\ud83d"
        assert means.spent == PRICE.of(10, 2)
    assert Ledger(tmp_path / "calls.jsonl", 0).calls["student"] == 1


class Slow:
    """An engine that takes its time, and counts."""

    def __init__(self) -> None:
        self.asked = 0

    def complete(self, request: Request) -> Response:
        self.asked += 1
        time.sleep(0.005)
        usage = Usage(input_tokens=10, output_tokens=2)
        message = Message.assistant("yes")
        return Response(id="1", model=request.model, message=message, finish_reason="stop", usage=usage)


def asking(what: str) -> Request:
    return Request(model="m", messages=(Message.user(what),))


def means_of(folder: Path, limit: int) -> Spending:
    return Spending(Ledger(folder / "calls.jsonl", 0), limit=limit, time=10**9, earlier=0, clock=lambda: 0)
