"""The simulated model and its world: what it answers follows from what it is told, and from nothing else."""

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import dspy
import pytest

from experiments.errors import Invalid
from experiments.facts import Call
from learning.definitions import LmSettings, Price
from learning.engines.simulated import read_rules, reflect
from learning.engines.triage import CUES, LABELS, NEW_CUES, Ticket, cues, rulebook, tickets
from learning.lms import metering, open_lm

SIGNATURE = "ticket: str -> category: Literal['billing', 'bug', 'how-to', 'other']"
PLAIN = "Classify the support ticket."
TICKETS = tickets(1, 300)
SHIFTED = tickets(1, 300, shift=0.6)


def program(instructions: str, *, module: Any = dspy.Predict, demos: list[Ticket] | None = None) -> Any:
    made = module(dspy.Signature(SIGNATURE).with_instructions(instructions))
    for predictor in made.predictors():
        predictor.demos = [{"ticket": demo.text, "category": demo.label} for demo in demos or []]
    return made


def answers(asked: list[Ticket], made: Any, *, calls: list[Call] | None = None, **settings: Any) -> list[str | None]:
    """The categories given, None where the model failed."""

    async def asking() -> list[str | None]:
        lm = open_lm(LmSettings(**{"model": "sim/triage", "num_retries": 0, **settings}))
        given: list[str | None] = []
        with metering("base", calls if calls is not None else []), lm.context():
            for ticket in asked:
                try:
                    given.append((await made.acall(ticket=ticket.text)).category)
                except dspy.LMError:
                    given.append(None)
        return given

    return asyncio.run(asking())


def accuracy(asked: list[Ticket], instructions: str, **settings: Any) -> float:
    given = answers(asked, program(instructions), **settings)
    return sum(answer == ticket.label for answer, ticket in zip(given, asked, strict=True)) / len(asked)


def test_accuracy_follows_the_instruction_by_a_wide_margin() -> None:
    vague = accuracy(TICKETS, PLAIN)
    natural = accuracy(
        TICKETS,
        "Classify the support ticket. Refunds, invoices, charges, payments and fees are billing. Whatever mentions a "
        "crash, an error, a loop or a timeout is a bug. If they ask about a template, a filter, a password or an "
        "import, answer how-to. Internships, podcasts and a thesis are other.",
    )
    best = accuracy(TICKETS, rulebook())
    assert vague + 0.05 < natural < best - 0.1
    assert best > 0.9


def test_the_best_accuracy_is_one_minus_the_noise() -> None:
    assert accuracy(TICKETS, rulebook(), options={"noise": 0}) == 1
    assert accuracy(TICKETS, rulebook(), options={"noise": 0.3}) == pytest.approx(0.7, abs=0.08)


def test_a_shift_lowers_accuracy_until_the_instruction_knows_the_new_words() -> None:
    assert accuracy(SHIFTED, rulebook()) < accuracy(TICKETS, rulebook()) - 0.25
    assert accuracy(SHIFTED, rulebook(shifted=True)) > 0.9


def test_reading_carefully_helps_where_a_courtesy_misleads() -> None:
    rules = rulebook().partition("\n")[2]
    assert accuracy(TICKETS, "Read carefully.\n" + rules) > accuracy(TICKETS, rules) + 0.05


def test_demonstrations_teach_what_they_show() -> None:
    options = {"noise": 0, "knows": 0}
    shown = answers(TICKETS, program(PLAIN, demos=tickets(9, 24)), options=options)
    right = sum(answer == ticket.label for answer, ticket in zip(shown, TICKETS, strict=True)) / len(TICKETS)
    assert right > accuracy(TICKETS, PLAIN, options=options) + 0.1


@pytest.mark.parametrize("adapter", ["chat", "json"])
@pytest.mark.parametrize("module", [dspy.Predict, dspy.ChainOfThought])
def test_every_format_gets_the_same_answers_in_one_call_each(adapter: str, module: Any) -> None:
    calls: list[Call] = []
    given = answers(TICKETS[:40], program(PLAIN, module=module), calls=calls, adapter=adapter)
    assert given == answers(TICKETS[:40], program(PLAIN))
    assert len(calls) == 40


def test_other_processes_give_the_same_tickets_and_answers() -> None:
    here = answers(TICKETS[:50], program(PLAIN))
    script = (
        "import json; from tests.learning.test_simulated import *; "
        "print(json.dumps(answers(tickets(1, 50), program(PLAIN))))"
    )
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert json.loads(there.stdout.splitlines()[-1]) == here


def test_another_seed_makes_other_mistakes() -> None:
    first = answers(TICKETS, program(PLAIN), options={"seed": 1})
    assert first != answers(TICKETS, program(PLAIN), options={"seed": 2})
    assert first == answers(TICKETS, program(PLAIN), options={"seed": 1})


def test_the_share_of_failing_inputs_is_the_error_rate_and_a_failure_is_not_billed() -> None:
    calls: list[Call] = []
    given = answers(TICKETS, program(PLAIN), calls=calls, options={"error_rate": 0.2})
    assert given.count(None) == pytest.approx(60, abs=25)
    assert len(calls) == len(TICKETS) - given.count(None)


def test_a_call_costs_its_tokens_times_the_price() -> None:
    calls: list[Call] = []
    answers(TICKETS[:5], program(PLAIN), calls=calls, price=Price(1, 2))
    assert all(call.cost == call.input_tokens * 10**6 + call.output_tokens * 2 * 10**6 for call in calls)
    assert {call.model for call in calls} == {"sim/triage"}


def test_a_response_says_that_it_is_simulated() -> None:
    lm = open_lm(LmSettings(model="sim/triage"))
    request = dspy.lm15.Request(model="sim/triage", messages=(dspy.lm15.Message.user("hello"),))
    assert lm.model(request=request).model == "simulated:sim/triage"


def test_calls_take_about_the_latency_they_are_set_to() -> None:
    calls: list[Call] = []
    begun = time.perf_counter()
    answers(TICKETS[:5], program(PLAIN), calls=calls, options={"latency": "40ms", "jitter": 0.5})
    assert time.perf_counter() - begun > 5 * 0.02
    assert all(call.latency >= 20_000 for call in calls)
    assert len({call.latency // 2_000 for call in calls}) > 1


def test_every_ticket_is_decided_by_the_last_thing_it_mentions() -> None:
    stream = tickets(3, 2000, shift=0.3)
    assert all(CUES[cues(ticket.text)[-1]] == ticket.label for ticket in stream)
    assert len({ticket.text for ticket in stream}) > 1500
    assert {ticket.label for ticket in stream} == set(LABELS)


def test_new_words_come_up_only_after_the_shift() -> None:
    assert not any(NEW_CUES & set(cues(ticket.text)) for ticket in tickets(4, 500))
    assert all(NEW_CUES & set(cues(ticket.text)) for ticket in tickets(4, 500, shift=1.0))


def test_a_stream_of_tickets_may_be_entered_anywhere() -> None:
    assert tickets(5, 10)[4:] == tickets(5, 6, start=4)


@pytest.mark.parametrize(
    ("instruction", "rules"),
    [
        ("Refunds and invoices are billing.", {"refund": "billing", "invoice": "billing"}),
        ("bug: crash, error; billing: fee", {"crash": "bug", "error": "bug", "fee": "billing"}),
        ('"refund" => billing\nexport -> how-to', {"refund": "billing", "export": "how-to"}),
        ("If it mentions a podcast, answer 'other'.", {"podcast": "other"}),
        ("A coupon is billing, not other.", {"coupon": "billing"}),
        ("Look at the refund and the other fields.", {}),
        ("Choose billing, bug, how-to or other.", {}),
    ],
)
def test_rules_are_found_in_natural_wordings(instruction: str, rules: dict[str, str]) -> None:
    assert read_rules(instruction) == rules


def test_a_reflecting_model_turns_feedback_into_rules() -> None:
    examples = [
        {
            "Inputs": {"ticket": ticket.text},
            "Generated Outputs": {"category": "?"},
            "Feedback": f"Expected {ticket.label}.",
        }
        for ticket in tickets(6, 120, shift=0.5)
    ]
    better = reflect(PLAIN, json.dumps(examples))
    assert accuracy(SHIFTED, better) > accuracy(SHIFTED, PLAIN) + 0.25


def test_gepa_improves_the_instruction_with_the_simulated_model_on_both_sides() -> None:
    def metric(gold: Any, answer: Any, *_: Any) -> Any:
        right = gold.category == answer.category
        return dspy.Prediction(score=float(right), feedback="Right." if right else f"Expected {gold.category}.")

    def examples(seed: int, n: int) -> list[Any]:
        return [dspy.Example(ticket=t.text, category=t.label).with_inputs("ticket") for t in tickets(seed, n)]

    class Triage(dspy.Module):  # type: ignore[misc]  # DSPy ships no types
        def __init__(self) -> None:
            super().__init__()
            self.sort = program(PLAIN)

        def forward(self, ticket: str) -> Any:
            return self.sort(ticket=ticket)

    student, reflector = (open_lm(LmSettings(model="sim/triage", options={"seed": seed})) for seed in (7, 8))
    gepa = dspy.GEPA(
        metric=metric, max_metric_calls=400, reflection_lm=reflector.model, reflection_minibatch_size=5, num_threads=1
    )
    with student.context():
        best = gepa.compile(Triage(), trainset=examples(21, 60), valset=examples(22, 40))
    assert accuracy(TICKETS, best.sort.signature.instructions) > accuracy(TICKETS, PLAIN) + 0.1


def test_the_phrase_pool_proposes_what_is_in_it_and_never_the_present_instruction() -> None:
    pool = ("Say A.", "Say B.", "Say C.")
    lm = open_lm(LmSettings(model="sim/phrases", options={"phrases": list(pool)}))
    propose = dspy.Predict("current_instruction, examples_with_feedback -> new_instruction")
    with lm.context():
        proposed = {
            propose(current_instruction="Say A.", examples_with_feedback=str(n)).new_instruction for n in range(12)
        }
    assert proposed == {"Say B.", "Say C."}


def test_a_pool_of_one_phrase_is_refused() -> None:
    with pytest.raises(Invalid, match="at least two"):
        open_lm(LmSettings(model="sim/phrases", options={"phrases": ["only"]}))
