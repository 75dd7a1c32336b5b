"""What is measured about a prediction, and how a reported outcome becomes a number.

A metric's *value* is kept as reported, in its own unit. The tests want a *score*: for bounded metrics a number in [0,
1] of which more is better, whatever the metric's range and direction.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from experiments.quantities import duration, fraction, money

Kind = Literal[
    "exact_match", "normalized_match", "token_f1", "boolean", "score", "positive", "latency", "cost", "tokens", "error"
]
Source = Literal["human", "program", "judge"]
SOURCES: tuple[Source, ...] = ("human", "program", "judge")
LABELLED = frozenset({"exact_match", "normalized_match", "token_f1"})
"""Kinds scored from a reported label."""
IMPLICIT = frozenset({"latency", "cost", "tokens", "error"})
"""Kinds observed on the prediction itself; nobody reports them."""
UNBOUNDED = frozenset({"positive", "latency", "cost", "tokens"})
"""Kinds without a greatest value; compared as a ratio, on the log scale."""
ERROR_MARGIN = 0.01


class Metric(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One metric of a program, as written in its definition.

    `field` is the output field a label is compared on. `range` holds the least and greatest value of a `score`.
    `margin` is how much worse a challenger may be on a guardrail: in the metric's own unit for bounded kinds, a ratio
    (`10%`) for the others. `expected` says what a missing outcome means (see the concepts page).
    `limit` (`2s`, `0.01` dollars) makes of latency or cost the share of predictions beyond it, a service level: that is
    bounded, so the exact test applies and `margin` is in points.
    """

    kind: Kind
    field: str | None = None
    role: Literal["goal", "guardrail", "watch"] = "watch"
    range: tuple[float, float] | None = None
    direction: Literal["higher", "lower"] | None = None
    margin: float | str | None = None
    expected: Literal["all", "sampled", "volunteered"] = "sampled"
    sources: tuple[Source, ...] = SOURCES
    limit: str | float | None = None

    def __post_init__(self) -> None:
        self._check_limit()
        if (self.kind in LABELLED) != (self.field is not None):
            needs = "needs `field`, the output field to compare" if self.kind in LABELLED else "takes no `field`"
            raise ValueError(f"kind {self.kind!r} {needs}")
        if (self.kind == "score") != (self.range is not None):
            needs = "needs `range`, its least and greatest value" if self.kind == "score" else "takes no `range`"
            raise ValueError(f"kind {self.kind!r} {needs}")
        if self.range is not None and not -1e15 < self.range[0] < self.range[1] < 1e15:
            raise ValueError(f"range {list(self.range)} must rise from a finite least to a finite greatest value")
        if self.kind in IMPLICIT and self.direction == "higher":
            raise ValueError(f"lower is better for {self.kind}: `direction: higher` is refused")
        if self.margin is not None and fraction(self.margin) <= 0:
            raise ValueError("margin must be above 0")
        if self.bounded and self.allowance > self.bounds[1] - self.bounds[0]:
            raise ValueError(f"margin {self.margin} is wider than the metric's whole range")
        if self.role == "guardrail" and self.margin is None and self.kind != "error":
            raise ValueError("a guardrail needs `margin`, how much worse a challenger may be")
        if not self.sources or len(set(self.sources)) != len(self.sources):
            raise ValueError("sources must name each of human, program, judge at most once, and at least one")

    def _check_limit(self) -> None:
        if self.limit is None:
            return
        if self.kind not in ("latency", "cost"):
            raise ValueError(f"kind {self.kind!r} takes no `limit`; latency and cost do")
        try:
            above_zero = self.threshold
        except ValueError as error:
            raise ValueError(f"limit: {error}") from None
        if not above_zero:
            raise ValueError("limit must be above 0")

    @property
    def threshold(self) -> int | None:
        """The limit in microseconds of latency or picodollars of cost."""
        if self.limit is None:
            return None
        return duration(self.limit) if self.kind == "latency" else money(self.limit)

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller value is the better one."""
        return self.direction == "lower" or (self.direction is None and self.kind in IMPLICIT)

    @property
    def bounded(self) -> bool:
        """Whether values have a least and a greatest, so that the exact test applies."""
        return self.kind not in UNBOUNDED or self.limit is not None

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and greatest value of a bounded metric."""
        return self.range or (0.0, 1.0)

    @property
    def allowance(self) -> float:
        """The non-inferiority margin, above 0; see `margin` for its unit."""
        return fraction(self.margin) if self.margin is not None else ERROR_MARGIN

    def score(self, value: float) -> float:
        """A bounded value as a number in [0, 1] of which more is better."""
        low, high = self.bounds
        share = (value - low) / (high - low)
        return 1.0 - share if self.lower_is_better else share

    def effect(self, difference: float) -> float:
        """A difference of scores in the metric's own unit and direction."""
        low, high = self.bounds
        change = difference * (high - low)
        return 0.0 - change if self.lower_is_better else change

    def check_value(self, value: bool | float) -> float:
        """The number a reported value stands for. Raises: ValueError naming what the metric takes."""
        if self.kind == "boolean":
            if value in (0, 1):
                return float(value)
            raise ValueError(f"{value!r} is not true or false")
        if isinstance(value, bool) or not -1e300 < value < 1e300:
            raise ValueError(f"{value!r} is not a finite number")
        if self.kind == "positive":
            if value > 0:
                return float(value)
            raise ValueError(f"{value!r} is not above 0")
        low, high = self.bounds
        if not low <= value <= high:
            raise ValueError(f"{value!r} is outside the range {low:g} to {high:g}")
        return float(value)

    def compare(self, label: Any, output: Any) -> float:
        """The score of an output field against its reported label, in [0, 1]."""
        if self.kind == "exact_match":
            return float(label == output)
        if self.kind == "normalized_match":
            return float(words(label) == words(output))
        return token_f1(words(label), words(output))


def scored_by_label(metrics: Mapping[str, Metric], label: Mapping[str, Any]) -> list[str]:
    """The metrics that a label with these fields decides."""
    return [name for name, metric in metrics.items() if metric.kind in LABELLED and metric.field in label]


def token_f1(expected: list[str], given: list[str]) -> float:
    """Harmonic mean of token precision and recall, the measure of SQuAD (Rajpurkar et al. 2016, section 6.1).

    >>> token_f1(["a", "b"], ["b", "c"])
    0.5
    """
    if not expected or not given:
        return float(expected == given)
    shared = sum((Counter(expected) & Counter(given)).values())
    return 2 * shared / (len(expected) + len(given))


def words(text: Any) -> list[str]:
    """Lower-cased words without punctuation, English articles or differences of Unicode form."""
    folded = unicodedata.normalize("NFKC", text if isinstance(text, str) else str(text)).casefold()
    return [word for word in re.findall(r"\w+", folded) if word not in {"a", "an", "the"}]
