"""Answers, fallbacks, deadlines and bills, through the real DSPy and a scripted language model."""

import asyncio
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from dspy.clients.base_lm import GLOBAL_HISTORY
from dspy.lm15 import AuthError, ServerError

from experiments.errors import Busy, Invalid
from learning.definitions import LmSettings, Price, ProgramDefinition
from learning.programs import base_variant, make_variant, twin
from learning.running import Runner, Served
from learning.variants import Variant
from tests.scripted_lm import Reply, Script, ScriptedLm, chat

PRICE = Price("0.15", "0.6")
INPUT = {"ticket": "I was charged twice"}
COST = 100 * 150_000 + 10 * 600_000
MODULES = "tests.learning.modules"


def definition(**changes: Any) -> ProgramDefinition:
    lm = LmSettings(model="fake/champion", price=PRICE, num_retries=0)
    signature = "ticket: str -> category: Literal['billing', 'bug']"
    return ProgramDefinition(**{"signature": signature, "lm": lm, "timeout": "10s", **changes})


def challenger(program: ProgramDefinition, **lm: Any) -> Variant:
    settings = {"model": "fake/challenger", "num_retries": 0, "price": {"input": "0.15", "output": "0.6"}, **lm}
    return make_variant("triage", program, name="new", created_at=0, lm=settings, parent=None)


def answered(script: Script, run: Callable[[Runner], Any]) -> Any:
    async def main() -> Any:
        runner = Runner(ScriptedLm(script).open)
        try:
            return await run(runner)
        finally:
            await runner.aclose()

    return asyncio.run(main())


def champion_only(script: Script, program: ProgramDefinition, given: dict[str, Any] | None = None) -> Served:
    base = base_variant("triage", program, 0)
    served: Served = answered(script, lambda runner: runner.answer(base, base, program, given or INPUT))
    return served


def with_fallback(script: Script, program: ProgramDefinition) -> Served:
    base, new = base_variant("triage", program, 0), challenger(program)
    served: Served = answered(script, lambda runner: runner.answer(new, base, program, INPUT))
    return served


def test_an_answer_carries_its_output_and_its_exact_bill() -> None:
    served = champion_only(lambda _model, _prompt: chat(category="billing"), definition())
    assert (served.status, served.variant, served.output) == ("ok", "base", {"category": "billing"})
    assert (served.error, served.error_detail) == (None, None)
    [call] = served.calls
    assert (call.variant, call.model, call.input_tokens, call.output_tokens) == ("base", "fake/champion", 100, 10)
    assert call.cost == COST
    assert 0 < call.latency <= served.latency


def test_without_a_price_the_cost_is_unknown_not_zero() -> None:
    served = champion_only(lambda *_: chat(category="bug"), definition(lm="fake/unpriced"))
    assert [call.cost for call in served.calls] == [None]


def test_the_prompt_holds_the_variants_instructions_and_demos() -> None:
    lm = ScriptedLm(lambda *_: chat(category="bug"))
    program = definition()
    state = {"predict": {"instructions": "Sort it well.", "demos": [{"ticket": "It crashed", "category": "bug"}]}}
    new = make_variant("triage", program, name="new", created_at=0, state=state, parent=None)
    asyncio.run(Runner(lm.open).answer(new, None, program, INPUT))
    [(_, prompt)] = lm.asked
    assert "Sort it well." in prompt
    assert "It crashed" in prompt
    assert "I was charged twice" in prompt


def test_the_hidden_second_call_of_a_parse_fallback_is_on_the_bill() -> None:
    replies = iter(["no marks here", '{"category": "bug"}'])
    served = champion_only(lambda *_: next(replies), definition())
    assert (served.status, served.output) == ("ok", {"category": "bug"})
    assert [call.cost for call in served.calls] == [COST, COST]


def test_an_unreadable_answer_is_a_failure_that_was_paid_for() -> None:
    served = champion_only(lambda *_: "whatever", definition())
    assert (served.status, served.variant, served.output, served.error) == ("error", None, None, "lm-failed")
    assert served.error_detail == "unreadable answer: 'whatever'"
    assert len(served.calls) == 2


def test_a_failing_challenger_is_charged_and_the_champion_answers() -> None:
    def script(model: str, _prompt: str) -> str:
        return chat(category="bug") if model == "fake/champion" else "gibberish"

    served = with_fallback(script, definition())
    assert (served.status, served.variant, served.output) == ("fallback", "base", {"category": "bug"})
    assert (served.error, served.error_detail) == ("lm-failed", "unreadable answer: 'gibberish'")
    assert [call.variant for call in served.calls] == ["new", "new", "base"]


def test_when_both_fail_the_assigned_variants_error_is_told_first() -> None:
    served = with_fallback(lambda model, _prompt: AuthError(f"{model} says no"), definition())
    assert (served.status, served.variant, served.error) == ("error", None, "lm-failed")
    assert served.error_detail is not None
    assert served.error_detail.index("fake/challenger says no") < served.error_detail.index("fake/champion says no")


@pytest.mark.parametrize("pinned", [True, False])
def test_a_pinned_variant_and_fallback_error_do_not_fall_back(pinned: bool) -> None:
    program = definition() if pinned else definition(fallback="error")
    base, new = base_variant("triage", program, 0), challenger(program)
    lm = ScriptedLm(lambda *_: ServerError("down"))
    served = asyncio.run(Runner(lm.open).answer(new, None if pinned else base, program, INPUT))
    assert (served.status, served.variant) == ("error", None)
    assert {model for model, _ in lm.asked} == {"fake/challenger"}


def test_a_challenger_may_use_seven_tenths_of_the_deadline_and_the_champion_the_rest() -> None:
    seconds = {"fake/challenger": 30.0, "fake/champion": 0.05}
    served = with_fallback(lambda model, _prompt: Reply(chat(category="bug"), seconds[model]), definition(timeout="2s"))
    assert (served.status, served.variant, served.error) == ("fallback", "base", "lm-timeout")
    assert served.error_detail == "no answer within 1.4 s"
    assert served.latency >= 1_400_000


def test_the_champion_alone_may_use_the_whole_deadline() -> None:
    served = champion_only(lambda *_: Reply(chat(category="bug"), 0.3), definition(timeout="3s"))
    assert served.status == "ok"
    served = champion_only(lambda *_: Reply(chat(category="bug"), 30), definition(timeout="0.2s"))
    assert (served.status, served.error, served.error_detail) == ("error", "lm-timeout", "no answer within 0.2 s")


def test_what_is_left_of_a_deadline_bounds_both_tries() -> None:
    program = definition()
    base, new = base_variant("triage", program, 0), challenger(program)
    served = answered(
        lambda *_: Reply("", 30), lambda runner: runner.answer(new, base, program, INPUT, remaining=200_000)
    )
    assert (served.status, served.error) == ("error", "lm-timeout")


def test_an_lm_without_room_refuses_before_anything_is_spent() -> None:
    lm = ScriptedLm(lambda *_: Reply(chat(category="bug"), 0.2))
    program = definition(lm=LmSettings(model="fake/champion", max_concurrency=2))
    base = base_variant("triage", program, 0)

    async def main() -> list[Served | BaseException]:
        runner = Runner(lm.open)
        three = (runner.answer(base, base, program, INPUT) for _ in range(3))
        return await asyncio.gather(*three, return_exceptions=True)

    first, second, third = asyncio.run(main())
    assert isinstance(first, Served)
    assert isinstance(second, Served)
    assert isinstance(third, Busy)
    assert third.retry_after > 0
    assert len(lm.asked) == 2


def test_a_slot_is_given_back_after_every_kind_of_end() -> None:
    program = definition(lm=LmSettings(model="fake/champion", max_concurrency=1, num_retries=0))
    base = base_variant("triage", program, 0)
    asked = asyncio.Event()
    replies: list[Any] = [Reply("", 30), Reply("", 30), "gibberish", "gibberish", AuthError("no"), chat(category="bug")]

    async def statuses(runner: Runner) -> list[str]:
        hung_up = asyncio.create_task(runner.answer(base, base, program, INPUT))
        await asked.wait()
        hung_up.cancel()
        await asyncio.wait([hung_up])
        late = await runner.answer(base, base, program, INPUT, remaining=50_000)
        return [late.status, *[(await runner.answer(base, base, program, INPUT)).status for _ in range(3)]]

    def script(*_: str) -> Any:
        asked.set()
        return replies.pop(0)

    assert answered(script, statuses) == ["error", "error", "error", "ok"]


def test_a_challenger_without_room_falls_back_on_a_champion_with_room() -> None:
    program = definition()
    base, new = base_variant("triage", program, 0), challenger(program, max_concurrency=1)

    async def two(runner: Runner) -> list[Served]:
        return await asyncio.gather(*(runner.answer(new, base, program, INPUT) for _ in range(2)))

    first, second = answered(lambda *_: Reply(chat(category="bug"), 0.1), two)
    assert (first.status, second.status, second.variant, second.error) == ("ok", "fallback", "base", "lm-failed")


def test_a_variant_that_cannot_be_opened_is_a_failure_not_a_crash() -> None:
    program = definition()
    base, new = base_variant("triage", program, 0), challenger(program)

    def open_lm(settings: LmSettings) -> Any:
        if settings.model == "fake/challenger":
            raise Invalid.at("/api_key_env", "the environment variable KEY is empty")
        return ScriptedLm(lambda *_: chat(category="bug")).open(settings)

    served = asyncio.run(Runner(open_lm).answer(new, base, program, INPUT))
    assert (served.status, served.error) == ("fallback", "lm-failed")
    assert served.error_detail is not None
    assert "KEY is empty" in served.error_detail


def test_steps_of_any_number_are_all_on_the_bill_and_share_one_deadline() -> None:
    program = definition(signature=None, module=f"{MODULES}:Research")

    def script(_model: str, prompt: str) -> str:
        if "reasoning" in prompt:
            return chat(reasoning="The notes say so.", answer="42")
        return chat(note=f"note {prompt.count('«')}", enough="False")

    for steps in (0, 1, 5):
        served = champion_only(script, program, {"question": "why?", "steps": steps})
        assert served.status == "ok", served.error_detail
        assert served.output is not None
        assert served.output["answer"] == "42"
        assert len(served.output["sources"]) == steps
        assert len(served.calls) == steps + 1


def test_a_synchronous_module_is_answered_in_a_thread_and_metered() -> None:
    program = definition(signature=None, module=f"{MODULES}:Synchronous")
    served = champion_only(lambda *_: chat(category="bug"), program)
    assert (served.status, served.output) == ("ok", {"category": "bug"})
    assert [call.cost for call in served.calls] == [COST]


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("fail", 'KeyError: "the module\'s own bug"'),
        ("fail_unspeakably", "RuntimeError: a\\0b \\ud83d c"),
        ("leave", "SystemExit: 3"),
        ("cancel", "the program cancelled itself"),
        ("fail_in_a_group", 'KeyError: "the module\'s own bug"'),
        ("say_text", "the program returned a str, not a dspy.Prediction"),
        ("say_nothing", "unreadable answer: 'category' is missing"),
        ("say_a_number", "unreadable answer: 'category': ValidationError"),
    ],
)
def test_what_goes_wrong_inside_a_module_is_the_programs_failure(deed: str, reason: str) -> None:
    program = definition(signature=None, module=f"{MODULES}:Misbehaving")
    served = champion_only(lambda *_: chat(category="bug"), program, {"deed": deed})
    assert (served.status, served.error) == ("error", "lm-failed")
    assert served.error_detail is not None
    assert served.error_detail.startswith(reason)


def test_a_module_that_clings_on_after_its_deadline_is_late() -> None:
    program = definition(signature=None, module=f"{MODULES}:Misbehaving", timeout="0.1s")
    served = champion_only(lambda *_: "", program, {"deed": "cling"})
    assert (served.status, served.error) == ("error", "lm-timeout")


def test_text_that_cannot_be_stored_is_escaped_not_refused() -> None:
    program = definition(signature=None, module=f"{MODULES}:Misbehaving")
    served = champion_only(lambda *_: "", program, {"deed": "say_half_a_pair"})
    assert served.output == {"category": "half \\ud83d pair"}


def test_a_callers_cancellation_goes_through() -> None:
    program = definition()
    base, new = base_variant("triage", program, 0), challenger(program)
    lm = ScriptedLm(lambda *_: Reply("", 30))

    async def main() -> None:
        task = asyncio.create_task(Runner(lm.open).answer(new, base, program, INPUT))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert {model for model, _ in lm.asked} == {"fake/challenger"}


def test_answers_at_once_keep_their_inputs_and_bills_apart() -> None:
    program = definition(signature="ticket: str -> echo: str")
    base = base_variant("triage", program, 0)

    def script(_model: str, prompt: str) -> Reply:
        number = prompt.rpartition("ticket-")[2].split()[0]
        return Reply(chat(echo=number), 0.01 * (int(number) % 3), input_tokens=int(number))

    async def many(runner: Runner) -> list[Served]:
        inputs = ({"ticket": f"ticket-{number}"} for number in range(50))
        return await asyncio.gather(*(runner.answer(base, base, program, given) for given in inputs))

    for number, served in enumerate(answered(script, many)):
        assert served.output == {"echo": str(number)}
        assert [call.input_tokens for call in served.calls] == [number]


def test_a_corrected_price_holds_for_the_variants_that_exist() -> None:
    before = definition(lm=LmSettings(model="fake/champion"))
    base = base_variant("triage", before, 0)

    async def main() -> list[int | None]:
        runner = Runner(ScriptedLm(lambda *_: chat(category="bug")).open)
        return [(await runner.answer(base, base, now, INPUT)).calls[0].cost for now in (before, definition())]

    assert asyncio.run(main()) == [None, COST]


def test_dspy_keeps_nothing_of_what_it_was_asked() -> None:
    before = len(dspy.settings.trace), len(GLOBAL_HISTORY)  # other tests may have used DSPy without a runner
    program = definition(signature=None, module=f"{MODULES}:Synchronous")
    champion_only(lambda *_: chat(category="bug"), program)
    champion_only(lambda *_: chat(category="bug"), definition())
    assert (len(dspy.settings.trace), len(GLOBAL_HISTORY)) == before


def test_what_a_program_is_given_is_never_written_to_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    careless = definition(signature=None, module=f"{MODULES}:Careless")
    served = champion_only(lambda _model, _prompt: chat(category="bug"), careless, {"ticket": "a customer's words"})
    assert served.status == "ok"
    written = capsys.readouterr()
    assert "customer" not in written.err + written.out


def test_a_twin_answers_like_its_champion_under_its_own_name() -> None:
    program = definition()
    base = base_variant("triage", program, 0)
    same = twin(base, 1)
    served = answered(lambda *_: chat(category="bug"), lambda runner: runner.answer(same, base, program, INPUT))
    assert (served.status, served.variant, served.calls[0].variant) == ("ok", "base-aa", "base-aa")
