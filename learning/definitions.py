"""What operators declare about a program: the `programs:` section of `ratchet.yaml`, already free of YAML.

These are the definitions as written. `server/definitions/reading.py` finds the place in the file for every error raised
here.
"""

import re
from typing import Any, Literal

import msgspec

from experiments.metrics import Metric
from experiments.quantities import SECOND, duration, fraction, money
from experiments.settings import ExperimentOptions

NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?")
"""What programs, variants and metrics may be called: fit for a URL, a label and a file name."""


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """USD per million tokens, exactly; at most six decimals."""

    input: str | float
    output: str | float

    def __post_init__(self) -> None:
        for side in (self.input, self.output):
            if money(side) % 10**6:
                raise ValueError(f"price {side!r} is finer than six decimals of a dollar per million tokens")

    def of(self, input_tokens: int, output_tokens: int) -> int:
        """Exact cost in picodollars."""
        return (money(self.input) * input_tokens + money(self.output) * output_tokens) // 10**6


class LmSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One language model as a program uses it. Keys are never stored: `api_key_env` names the variable that holds one.

    `options` are the settings of the built-in simulated model (`sim/...`); see `learning/engines/simulated.py`.
    """

    model: str
    api_base: str | None = None
    api_key_env: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    timeout: str | float | None = None
    num_retries: int = 1
    max_concurrency: int = 256
    price: Price | None = None
    adapter: Literal["chat", "json", "plain"] | None = None
    options: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+/\S{1,200}", self.model):
            raise ValueError(f"model {self.model!r} is not PROVIDER/NAME, such as openai/gpt-5-mini or sim/triage")
        if self.timeout is not None:
            duration(self.timeout)
        if not 0 <= self.num_retries <= 1:
            raise ValueError("num_retries is 0 or 1: the deadline is better spent on the champion's answer")
        if not 1 <= self.max_concurrency <= 100_000:
            raise ValueError("max_concurrency is a whole number from 1 to 100000")
        if self.options and not self.model.startswith("sim/"):
            raise ValueError("options belong to the built-in sim/ models only")


class DriftOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """How a program is watched for getting worse. See the drift page.

    `tolerated_drop` is the fall of the goal's score, on [0, 1], that may go unreported; `false_alarm_every` the mean
    time between false alarms at today's rate of outcomes. A prediction is judged once it is older than `maturity`, by
    default the outcome window: what is said of it later no longer counts. `profile: sensitive` is for outcomes that are
    independent of each other: it looks at each by itself and tolerates no drop. Nothing is said below `min_outcomes`.
    """

    tolerated_drop: float = 0.02
    false_alarm_every: str | float = "90d"
    maturity: str | float | None = None
    profile: Literal["default", "sensitive"] = "default"
    min_outcomes: int = 300

    def __post_init__(self) -> None:
        if not 0 <= self.tolerated_drop < 0.5:
            raise ValueError("tolerated_drop is a share from 0 to below 0.5")
        if not 30 <= self.min_outcomes <= 10**6:
            raise ValueError("min_outcomes is a whole number from 30 to 1000000")
        _durations(self, "false_alarm_every", "maturity")


class GateOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What a candidate must show on the sealed holdout before it may be put on trial.

    `min_gain` is how much better its mean score must be than the champion's (on [0, 1]), at `confidence`. `min_score`
    is a floor. Cost, latency and length of the prompt may grow by the given shares of the champion's.
    """

    min_gain: float = 0.0
    confidence: float = 0.9
    min_score: float = 0.0
    max_cost_growth: str | float = "100%"
    max_latency_growth: str | float = "100%"
    max_prompt_characters: int = 20_000

    def __post_init__(self) -> None:
        if not 0 <= self.min_gain < 1 or not 0 <= self.min_score <= 1:
            raise ValueError("min_gain and min_score are shares of the goal's range, from 0 to 1")
        if not 0.5 <= self.confidence < 1:
            raise ValueError("confidence is from 0.5 to below 1")
        if min(fraction(self.max_cost_growth), fraction(self.max_latency_growth)) < 0:
            raise ValueError("max_cost_growth and max_latency_growth are shares from 0 up, such as 50%")
        if not 100 <= self.max_prompt_characters <= 50_000:
            raise ValueError("max_prompt_characters is a whole number from 100 to 50000")


class LearningOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """When and how a program is recompiled. `on` is empty: only by hand. See the learning page.

    `schedule` has the five fields of cron, in UTC. `budget_usd` bounds one run, `monthly_budget_usd` a calendar month;
    `max_metric_calls` and `max_duration` bound a run too. `component` names the one predictor to be improved.
    """

    on: tuple[Literal["drift", "schedule"], ...] = ()
    schedule: str | None = None
    optimizer: Literal["auto", "gepa", "mipro", "bootstrap_few_shot"] = "auto"
    component: str | None = None
    reflection_lm: str | LmSettings | None = None
    judge_lm: str | None = None
    min_fresh_labels: int = 100
    budget_usd: str | float | None = None
    monthly_budget_usd: str | float | None = None
    max_metric_calls: int | None = None
    max_duration: str | float = "2h"
    cooldown: str | float = "24h"
    gate: GateOptions = GateOptions()

    def __post_init__(self) -> None:
        if self.judge_lm is not None:
            raise ValueError("judge_lm is null: metrics scored by a judge are not there yet")
        if "schedule" in self.on and self.schedule is None:
            raise ValueError("on: schedule needs `schedule`, such as '0 3 * * *'")
        if self.schedule is not None and len(self.schedule.split()) != 5:
            raise ValueError(f"schedule {self.schedule!r} does not have the five fields of cron, such as '0 3 * * *'")
        if not 10 <= self.min_fresh_labels <= 10**6:
            raise ValueError("min_fresh_labels is a whole number from 10 to 1000000")
        if self.max_metric_calls is not None and not 1 <= self.max_metric_calls <= 10**7:
            raise ValueError("max_metric_calls is a whole number from 1 to 10000000")
        for name in ("budget_usd", "monthly_budget_usd"):
            if getattr(self, name) is not None:
                try:
                    money(getattr(self, name))
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
        _durations(self, "max_duration", "cooldown")

    @property
    def budget(self) -> int | None:
        """Picodollars that one run may spend; None is no bound."""
        return None if self.budget_usd is None else money(self.budget_usd)

    @property
    def monthly_budget(self) -> int | None:
        """Picodollars that all runs of a calendar month (UTC) may spend; None is no bound."""
        return None if self.monthly_budget_usd is None else money(self.monthly_budget_usd)

    @property
    def reflection_settings(self) -> LmSettings | None:
        """The reflection LM, also when it was written as a bare name."""
        lm = self.reflection_lm
        return LmSettings(model=lm) if isinstance(lm, str) else lm


def _durations(options: DriftOptions | LearningOptions, *names: str) -> None:
    """Raises: ValueError naming the option whose duration cannot be read, or is shorter than a second."""
    for name in names:
        if (written := getattr(options, name)) is None:
            continue
        try:
            micros = duration(written)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if micros < SECOND and name != "cooldown":
            raise ValueError(f"{name}: {written!r} is not at least 1s")


class ProgramDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One program as declared.

    `module` is predict, chain_of_thought or `import.path:ModuleClass`; a class carries its own signatures, so
    `signature` may then be left out. A program without `drift` is watched by the defaults; one without `learning` is
    recompiled by hand only.
    """

    signature: str | None = None
    instructions: str | None = None
    module: str = "predict"
    lm: str | LmSettings
    fallback: Literal["champion", "error"] = "champion"
    timeout: str | float = "30s"
    metrics: dict[str, Metric] = {}
    promotion: Literal["auto", "recommend"] = "auto"
    experiments: ExperimentOptions = ExperimentOptions()
    drift: DriftOptions = DriftOptions()
    learning: LearningOptions = LearningOptions()

    def __post_init__(self) -> None:
        if self.module in ("predict", "chain_of_thought"):
            if not self.signature:
                raise ValueError(f"module {self.module!r} needs a `signature`, such as 'question -> answer'")
        elif not re.fullmatch(r"[\w.]+:\w+", self.module):
            raise ValueError(f"module {self.module!r} is not predict, chain_of_thought or import.path:ModuleClass")
        if not duration(self.timeout):
            raise ValueError("timeout must be above 0")
        goals = [name for name, metric in self.metrics.items() if metric.role == "goal"]
        if len(goals) > 1:
            raise ValueError(f"metrics {', '.join(goals)} are all `role: goal`; one program has one goal")

    @property
    def lm_settings(self) -> LmSettings:
        """The language model, also when it was written as a bare name."""
        return LmSettings(model=self.lm) if isinstance(self.lm, str) else self.lm

    @property
    def deadline(self) -> int:
        """Microseconds a prediction may take in all."""
        return duration(self.timeout)

    @property
    def goal(self) -> str | None:
        """The metric that experiments are about."""
        return next((name for name, metric in self.metrics.items() if metric.role == "goal"), None)

    @property
    def guardrails(self) -> list[str]:
        """The metrics a challenger must not make worse."""
        return [name for name, metric in self.metrics.items() if metric.role == "guardrail"]
