"""Champion and candidate on the same sealed examples, answered as serving answers, through the run's own ledger."""

import asyncio
from typing import Any

import msgspec

from experiments.metrics import Metric
from learning.compile_runs import Example, Job, Measured
from learning.engines.ledger import Entry
from learning.engines.recorded import TALLY
from learning.engines.spending import Spending
from learning.feedback.scoring import score
from learning.lms import Lm
from learning.running import Runner
from learning.variants import Variant, lm_in_force

AT_ONCE = 8
"""Answers that a run asks for at the same time, at most."""


class Answer(msgspec.Struct, frozen=True):
    """One variant's answer to one sealed example, with the calls it took, whichever attempt of the run made them."""

    output: dict[str, Any] | None
    fault: str | None
    calls: tuple[Entry, ...]

    @property
    def cost(self) -> int | None:
        """Picodollars; None where a call has no price."""
        known = [call.cost for call in self.calls if call.cost is not None]
        return sum(known) if len(known) == len(self.calls) else None

    @property
    def latency(self) -> int:
        """Microseconds of its calls, one after the other."""
        return sum(call.latency for call in self.calls)

    def score(self, goal: Metric, example: Example) -> float:
        """On [0, 1]; 0 where there is no answer."""
        return score(goal, example, self.output, error=self.fault)[0]


async def paired(job: Job, candidate: Variant, student: Lm, spending: Spending) -> list[Measured]:
    """Both variants' answers to the sealed examples, in their order; those that the run's means still allow."""
    runner, places = Runner(lambda _settings: student), asyncio.Semaphore(threads(job))

    async def answered(variant: Variant, example: Example) -> Answer:
        calls: list[Entry] = []
        TALLY.set(calls)
        served = await runner.answer(variant, None, job.definition, example.input)
        return Answer(served.output, served.error_detail, tuple(calls))

    async def measured(example: Example) -> Measured | None:
        async with places:
            baseline = await answered(job.champion, example)
            improved = await answered(candidate, example)
        return None if spending.stopped is not None else _measured(job, example, baseline, improved)

    try:
        pairs = await asyncio.gather(*(measured(example) for example in job.dataset.holdout))
    finally:
        await runner.aclose()
    return [pair for pair in pairs if pair is not None]


def threads(job: Job) -> int:
    """How many answers are asked for at once: as the LM allows, and no more than eight."""
    return min(AT_ONCE, lm_in_force(job.champion, job.definition).max_concurrency)


def _measured(job: Job, example: Example, baseline: Answer, improved: Answer) -> Measured:
    faults = {"champion": baseline.fault, "candidate": improved.fault}
    return Measured(
        prediction_id=example.prediction_id,
        baseline=baseline.score(job.goal, example),
        candidate=improved.score(job.goal, example),
        baseline_cost=baseline.cost,
        candidate_cost=improved.cost,
        baseline_latency=baseline.latency,
        candidate_latency=improved.latency,
        error="; ".join(f"{who}: {fault}" for who, fault in faults.items() if fault) or None,
    )
