"""What a compile run is made of: the job a child process is given, what it tells while it runs, and its result.

The child knows no database. It gets one `Job` as `job.json` in its run directory, appends `Event`s to `events.jsonl`,
keeps every paid call in `calls.jsonl`, and leaves a `Result` in `result.json`; see `learning/compiling/child.py`.
"""

from typing import Any, Literal

import msgspec

from experiments.metrics import Metric
from learning.definitions import LmSettings, ProgramDefinition
from learning.states import State
from learning.variants import Variant

Optimizer = Literal["gepa", "mipro", "bootstrap_few_shot"]
Reason = Literal["drift", "schedule", "operator"]
RunState = Literal["queued", "running", "succeeded", "rejected", "failed", "cancelled"]
OPEN: tuple[RunState, ...] = ("queued", "running")
"""The states of a run that has not ended."""


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """One prediction of production with what became of it, as learning sees it.

    `label` holds output fields as they should have been, `feedback` what people and programs said in words. `at` is the
    moment of the prediction in µs.
    """

    prediction_id: str
    unit_hash: str
    at: int
    input: dict[str, Any]
    label: dict[str, Any]
    feedback: tuple[str, ...] = ()


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """Examples in three parts that share no unit and no near-duplicate. No optimizer ever sees the sealed holdout."""

    train: tuple[Example, ...]
    val: tuple[Example, ...]
    holdout: tuple[Example, ...]
    digest: str


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What one run may use: picodollars (None: no bound), metric calls, and µs of time. Enforced before a call."""

    cost: int | None
    metric_calls: int
    time: int


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the child needs. `component` names the one predictor to improve; `seed` decides every chance.

    `spent` (picodollars) was paid for this run before, where its calls are no longer known.
    """

    compile_id: str
    program: str
    definition: ProgramDefinition
    champion: Variant
    goal: Metric
    dataset: Dataset
    optimizer: Optimizer
    component: str | None
    reflection_lm: LmSettings | None
    budget: Budget
    seed: int
    spent: int = 0


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is. `best_score` is on the valset, in [0, 1]."""

    iteration: int = 0
    metric_calls: int = 0
    metric_calls_budget: int = 0
    best_score: float | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened in a run. `spent` is everything paid so far, in picodollars; `said` is for people.

    `started`, `preflight`, `baseline` (the champion on the valset), `proposed` (an instruction was written: in `text`),
    `accepted` and `rejected` (of proposals), `progress`, `holdout` (both are being scored), `ended`.
    """

    kind: Literal[
        "started", "preflight", "baseline", "proposed", "accepted", "rejected", "progress", "holdout", "ended"
    ]
    at: int
    said: str
    progress: Progress
    spent: int
    predictor: str | None = None
    text: str | None = None


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One example of the holdout answered by the champion and by the candidate: scores on [0, 1], cost, latency (µs).

    A failed answer has score 0 and an error; its example counts.
    """

    prediction_id: str
    baseline: float
    candidate: float
    baseline_cost: int | None
    candidate_cost: int | None
    baseline_latency: int
    candidate_latency: int
    error: str | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How the child ended. `state` is None unless a candidate was found that differs from the champion.

    `outcome` is `candidate`, `no-candidate` (nothing better was found), `void` (language models failed, so scores mean
    nothing), `budget` (too small to begin, or used up before anything was learnt) or `cancelled`; `reason` says it in
    a sentence. `copied` lists passages of training text found in the candidate's prompt.
    """

    outcome: Literal["candidate", "no-candidate", "void", "budget", "cancelled"]
    reason: str
    state: State | None = None
    baseline_val: float | None = None
    candidate_val: float | None = None
    holdout: tuple[Measured, ...] = ()
    copied: tuple[str, ...] = ()
    student_calls: int = 0
    reflection_calls: int = 0
    metric_calls: int = 0
    spent: int = 0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate says of a candidate, with the numbers it goes by. Scores are means on the sealed holdout.

    `gain` is candidate minus baseline, paired; `lower` its one-sided lower bound at `confidence`. `faults` are the
    reasons to reject, in plain sentences; admitted when there are none.
    """

    admitted: bool
    faults: tuple[str, ...]
    examples: int
    baseline_score: float
    candidate_score: float
    gain: float
    lower: float
    confidence: float
    cost_growth: float | None
    latency_growth: float | None
    prompt_characters: int


class CompileRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run as it is recorded. Money in picodollars, times in µs.

    `alarm` is the moment of the drift alarm that asked for it, `since` the moment from which feedback was used.
    `attempt` counts how often it was begun, `failures` how many of those attempts failed: others were cut short.
    """

    compile_id: str
    program: str
    state: RunState
    reason: Reason
    optimizer: Optimizer
    champion: str
    actor: str | None = None
    alarm: int | None = None
    since: int | None = None
    dataset_digest: str | None = None
    examples: dict[str, int] = {}
    quality: dict[str, Any] = {}
    progress: Progress = Progress()
    spent: int = 0
    budget: Budget
    baseline_score: float | None = None
    candidate_score: float | None = None
    gate: Verdict | None = None
    variant: str | None = None
    experiment_id: str | None = None
    error: str | None = None
    cancel_requested: bool = False
    attempt: int = 0
    failures: int = 0
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.state in OPEN
