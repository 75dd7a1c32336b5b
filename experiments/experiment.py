"""An experiment: its arms, its frozen settings, and where in its life it stands.

    draft ──start──▶ running ⇄ paused          (pause, resume)
      │                 │        │
      └──────stop───────┴────────┴──▶ concluded    with one verdict, for ever

Verdicts: promote, rollback, futile, inconclusive, invalid by the engine; stopped by a person.
"""

from typing import Literal

import msgspec

from experiments.metrics import Metric
from experiments.settings import ExperimentSettings

State = Literal["draft", "running", "paused", "concluded"]
Verdict = Literal["promote", "rollback", "futile", "inconclusive", "invalid", "stopped"]
By = Literal["engine", "operator", "holdback"]


class Holdback(msgspec.Struct, frozen=True, kw_only=True):
    """The watch over a promotion: the `former` champion keeps a share beside the `promoted` variant, for a while.

    It began `since` (µs) with routing `epoch`. `state`: it is running; the former champion's planned units have matured
    without proof of harm (passed); harm was proven and the promotion taken back (rolled_back); something else came
    between, such as the next experiment (ended). `ended_at` is None while it runs.
    """

    former: str
    promoted: str
    epoch: int
    since: int
    state: Literal["running", "passed", "rolled_back", "ended"] = "running"
    ended_at: int | None = None


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """One experiment as it stands.

    `challengers` are variant names beside the `champion` they are weighed against. `saving` is the cost metric that has
    to fall under the objective `as_good_and_cheaper`, None under `better`. `metrics` holds the definitions of goal,
    guardrails and saving as they were at creation. `split` is the opening one (variant to share). `level` is the
    e-LOND level of its promotion, fixed at start (None before, and for A/A). `deadline` is how long a prediction of
    this program may take. `holdback` is there once a promotion was put under watch. `version` counts changes, for
    compare-and-set. Times in µs.
    """

    experiment_id: str
    program: str
    state: State
    verdict: Verdict | None = None
    reason: str | None = None
    rolled_back: bool = False
    champion: str
    challengers: tuple[str, ...]
    goal: str
    guardrails: tuple[str, ...]
    saving: str | None = None
    metrics: dict[str, Metric]
    settings: ExperimentSettings
    promotion: Literal["auto", "recommend"]
    aa: bool = False
    split: dict[str, float]
    level: float | None = None
    deadline: int
    version: int = 1
    created_at: int
    started_at: int | None = None
    concluded_at: int | None = None
    holdback: Holdback | None = None

    @property
    def arms(self) -> tuple[str, ...]:
        """The champion, then the challengers."""
        return (self.champion, *self.challengers)

    @property
    def aim(self) -> str:
        """The metric on which a challenger has to be better: the goal, or the cost when being as good is enough."""
        return self.saving or self.goal

    @property
    def objectives(self) -> tuple[str, ...]:
        """What a promotion claims: better on the goal; or no worse on it by its margin, and cheaper."""
        return (self.goal,) if self.saving is None else (self.goal, self.saving)

    @property
    def compared(self) -> tuple[str, ...]:
        """Every metric on which the arms are compared: what a promotion claims, then the guardrails."""
        return (*self.objectives, *self.guardrails)


ENGINE = 1
"""The version of the arithmetic that decides. Raise it whenever the same rows give other numbers: a replay by another
engine than the one that decided proves nothing about the decision, and says so."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One conclusion about an experiment, with the evidence it was drawn from. Append-only.

    `tick` numbers the decisions of an experiment from 1 (the unique key that makes two schedulers harmless). `blocks`
    and `registered` are how many blocks of assignment time had been folded and counted, `horizon` the time up to which
    facts were complete: together they let `ratchet replay` find exactly the rows this decision saw; `watched` is the
    same pair of the experiment's holdback. `evidence` is the report as it was then, by the arithmetic of `engine`.
    """

    decision_id: str
    experiment_id: str
    tick: int
    verdict: str
    reason: str
    by: By
    actor: str | None
    evidence: dict[str, object]
    engine: int = 1
    split_before: dict[str, float]
    split_after: dict[str, float]
    blocks: int
    registered: int
    watched: tuple[int, int] = (0, 0)
    horizon: int
    created_at: int
