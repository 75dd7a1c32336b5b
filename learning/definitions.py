"""What operators declare about a program: the `programs:` section of `ratchet.yaml`, already free of YAML.

These are the definitions as written. `server/definitions/reading.py` finds the place in the file for every error raised
here.
"""

import re
from typing import Any, Literal

import msgspec

from experiments.metrics import Metric
from experiments.quantities import duration, money
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


class ProgramDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One program as declared.

    `module` is predict, chain_of_thought or `import.path:ModuleClass`; a class carries its own signatures, so
    `signature` may then be left out. `drift` and `learning` are kept as written until those parts read them.
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
    drift: dict[str, Any] | None = None
    learning: dict[str, Any] | None = None

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
