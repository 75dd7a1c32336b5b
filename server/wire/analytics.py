"""A program's figures per variant, on the wire."""

from collections.abc import Iterable, Mapping

import msgspec

from experiments.metrics import LABELLED, Metric
from experiments.quantities import dollars
from experiments.report import Mean
from server.store.analytics import Score, VariantAnalytics
from server.wire.scalars import Money, Share, finite, milliseconds, seconds, usd


class Quantiles(msgspec.Struct, frozen=True):
    """Latency quantiles in milliseconds; null without predictions."""

    p50: float | None
    p95: float | None
    p99: float | None


class VariantFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One variant's figures. Predictions count by the assigned variant, cost by the variant whose calls they were.

    `errors` are predictions that the assigned variant did not answer, `fallbacks` those of them the champion did.
    `shadows` are answers that were made for comparison only, by pairs: scored and paid for, and no predictions.
    `scores` are in each metric's own unit; a prediction that its variant did not answer is the goal's worst value.
    `cost_per_correct_usd` is the cost of a prediction divided by the share of right answers, where the goal has one.
    """

    variant: str
    predictions: int
    errors: int
    error_ratio: Share | None
    fallbacks: int
    shadows: int
    latency_ms: Quantiles
    cost_usd: Money | None
    cost_per_prediction_usd: Money | None
    cost_per_correct_usd: Money | None
    scores: dict[str, Mean]


class Analytics(msgspec.Struct, frozen=True):
    """Per variant, over the last `window` seconds."""

    window: float
    variants: list[VariantFigures]


_RIGHT_OR_WRONG = LABELLED | {"boolean"}


def analytics(
    found: Iterable[VariantAnalytics], *, window: int, metrics: Mapping[str, Metric], goal: str | None
) -> Analytics:
    """The figures of every variant over the last `window` µs."""
    return Analytics(seconds(window), [_figures(figures, metrics, goal) for figures in found])


def _figures(found: VariantAnalytics, metrics: Mapping[str, Metric], goal: str | None) -> VariantFigures:
    scores = {
        name: _mean(metrics[name], score, name == goal) for name, score in found.scores.items() if name in metrics
    }
    failed = found.errors + found.fallbacks
    answers = found.predictions + found.shadows
    each = found.cost // answers if found.cost is not None and answers else None
    p50, p95, p99 = [milliseconds(latency) for latency in found.latency] or (None, None, None)
    return VariantFigures(
        variant=found.variant,
        predictions=found.predictions,
        errors=failed,
        error_ratio=failed / found.predictions if found.predictions else None,
        fallbacks=found.fallbacks,
        shadows=found.shadows,
        latency_ms=Quantiles(p50, p95, p99),
        cost_usd=usd(found.cost),
        cost_per_prediction_usd=usd(each),
        cost_per_correct_usd=_per_correct(each, metrics.get(goal or ""), scores.get(goal or "")),
        scores=scores,
    )


def _mean(metric: Metric, score: Score, goal: bool) -> Mean:
    if not (goal and metric.bounded and score.failed):
        return Mean(score.n, finite(score.mean))
    low, high = metric.bounds
    worst = high if metric.lower_is_better else low
    n = score.n + score.failed
    return Mean(n, ((score.mean or 0.0) * score.n + worst * score.failed) / n)


def _per_correct(each: int | None, goal: Metric | None, score: Mean | None) -> str | None:
    if each is None or goal is None or score is None or goal.kind not in _RIGHT_OR_WRONG or not score.mean:
        return None
    right = goal.score(score.mean)
    return dollars(round(each / right)) if right > 0 else None
