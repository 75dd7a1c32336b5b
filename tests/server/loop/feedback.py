"""Production as learning finds it: tickets of the simulated world, what was answered, and what they truly were."""

from experiments.facts import Content, Outcome, Prediction, Remark
from learning.engines.triage import ticket
from server import clock
from server.store import Store

PROGRAM = """
programs:
  triage:
    signature: "ticket: str -> category: Literal['billing', 'bug', 'how-to', 'other']"
    instructions: Classify the support ticket.
    lm: {model: sim/triage, options: {seed: 7}, price: {input: 0.25, output: 2}}
    timeout: 5s
    metrics:
      correct: {kind: exact_match, field: category, role: goal}
      solved: {kind: boolean}
    experiments: {randomize: request, outcome_window: 30s, min_duration: 0}
    learning:
      reflection_lm: {model: sim/triage, options: {seed: 7}, price: {input: 1.25, output: 10}}
      max_metric_calls: 420
      budget_usd: 1
"""
"""Its real recompile takes two seconds."""

SLOW = PROGRAM.replace("options: {seed: 7}", "options: {seed: 7, latency: 40ms}")
"""The same, for half a minute: long enough for something to happen to it."""


async def labelled(store: Store, tickets: int, *, first: int = 0, shift: float = 0.0, late: int = 0) -> None:
    """So many tickets answered wrongly by `base`, each with its true category, and a remark on some; `late` µs on."""
    began = clock.now() + late - tickets
    with store.journal.reserve(2 * tickets) as slot:
        for number in range(first, first + tickets):
            await _one(slot, f"{number:08}-{began}", number, began + number - first, shift)


async def _one(slot, name: str, number: int, at: int, shift: float) -> None:
    written = ticket(7, number, shift=shift)
    label = {"category": written.label}
    await slot.append(
        Prediction(
            prediction_id=name,
            program="triage",
            experiment_id=None,
            epoch=1,
            unit_hash=f"unit-{number}",
            assigned_variant="base",
            variant="base",
            propensity=1.0,
            status="ok",
            error=None,
            latency=1_000,
            input_tokens=200,
            output_tokens=20,
            cost=None,
            assigned_cost=None,
            assigned_tokens=None,
            calls=(),
            created_at=at,
            answered_at=at + 1_000,
        ),
        Content(
            prediction_id=name,
            unit=None,
            input={"ticket": written.text},
            output={"category": "other"},
            error_detail=None,
            metadata={},
        ),
    )
    said = Remark(prediction_id=name, source="human", digest="label", label=label, comment=None, received_at=at)
    comment = Remark(
        prediction_id=name, source="human", digest="comment", label=None, comment="not what I meant", received_at=at
    )
    outcome = Outcome(
        prediction_id=name,
        metric="correct",
        source="human",
        value=float(written.label == "other"),
        digest=written.label,
        late=False,
        received_at=at,
    )
    await slot.record([outcome], [said, comment] if number % 5 == 0 else [said])
