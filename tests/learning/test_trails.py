"""What a trail is told of how an answer came about."""

import asyncio
from itertools import pairwise

import pytest
from dspy.lm15 import ServerError

from learning.definitions import LmSettings, ProgramDefinition
from learning.programs import base_variant, make_variant
from learning.running import Runner, Served
from learning.trails import Trail
from tests.scripted_lm import Reply, Script, ScriptedLm, chat

SIGNATURE = "ticket: str -> category: Literal['billing', 'bug']"
INPUT = {"ticket": "I was charged twice"}
BILLING = chat(category="billing")


def followed(script: Script, trail: Trail | None, *, module: str = "predict", timeout: str = "10s") -> Served:
    """What a challenger, or the champion after it, answers, with a trail of it."""
    lm = LmSettings(model="fake/champion", num_retries=0)
    program = ProgramDefinition(signature=None if ":" in module else SIGNATURE, lm=lm, timeout=timeout, module=module)
    base = base_variant("triage", program, 0)
    new = make_variant(
        "triage", program, name="new", created_at=0, lm={"model": "fake/challenger", "num_retries": 0}, parent=None
    )

    async def main() -> Served:
        runner = Runner(ScriptedLm(script).open)
        try:
            return await runner.answer(new, base, program, INPUT, trail=trail)
        finally:
            await runner.aclose()

    return asyncio.run(main())


@pytest.mark.parametrize("module", ["predict", "tests.learning.modules:Synchronous"])
def test_every_call_is_told_with_the_bill_that_is_kept(module: str) -> None:
    trail = Trail()
    served = followed(lambda *_: BILLING, trail, module=module)
    (step,) = trail.tries
    assert (step.variant, step.error) == ("new", None)
    assert tuple(call.bill for call in step.calls) == served.calls
    assert [call.answered_by for call in step.calls] == ["fake/challenger"] * len(served.calls)
    assert step.ended is not None
    assert step.began <= step.calls[0].began < step.calls[-1].ended <= step.ended


def test_a_failure_is_told_in_both_its_try_and_its_call() -> None:
    trail = Trail()
    followed(lambda model, _: ServerError("down") if model == "fake/challenger" else BILLING, trail)
    failed, answered = trail.tries
    assert (failed.error, [call.error for call in failed.calls]) == ("lm-failed", ["LMServerError"])
    assert (answered.error, [call.error for call in answered.calls]) == (None, [None])
    assert [step.variant for step in trail.tries] == ["new", "base"]


def test_tries_follow_each_other_and_one_cut_short_has_its_call() -> None:
    trail = Trail()
    followed(lambda model, _: Reply(BILLING, seconds=60 if model == "fake/challenger" else 0), trail, timeout="500ms")
    assert trail.tries[0].error == "lm-timeout"
    assert [call.error for call in trail.tries[0].calls] == ["CancelledError"]
    for before, after in pairwise(trail.tries):
        assert before.ended is not None
        assert before.ended <= after.began


def test_what_was_said_is_kept_only_where_it_is_asked_for() -> None:
    silent, verbatim = Trail(), Trail(verbatim=True)
    for trail in (silent, verbatim):
        followed(lambda *_: BILLING, trail)
    assert silent.tries[0].calls[0].exchange is None
    said = verbatim.tries[0].calls[0].exchange
    assert said is not None
    assert INPUT["ticket"] in said.messages[-1]["content"]
    assert said.outputs == [BILLING]


def test_without_a_trail_the_answer_is_the_same() -> None:
    with_one, without = (followed(lambda *_: BILLING, trail) for trail in (Trail(), None))
    assert (with_one.output, with_one.status, len(with_one.calls)) == (
        without.output,
        without.status,
        len(without.calls),
    )
