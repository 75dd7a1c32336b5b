"""What every variant did over a stretch of time: counts, latency, money, scores."""

from collections.abc import Mapping, Sequence

import msgspec
import sqlalchemy as sa

from experiments.facts import Call, shadow_id
from experiments.metrics import Source
from server.store.rows import decode
from server.store.tables import outcomes, predictions

QUANTILES = (0.5, 0.95, 0.99)
_COUNTED = ("predictions", "errors", "fallbacks", "shadows")
_SERVED = predictions.c.prediction_id.not_like("%" + shadow_id(""))


class Score(msgspec.Struct, frozen=True):
    """Reported values of one metric, of the predictions that their assigned variant answered: how many, and their mean.

    `failed` counts the others with an outcome; what those count for is the metric's business.
    """

    n: int
    mean: float | None
    failed: int


class VariantAnalytics(msgspec.Struct, frozen=True, kw_only=True):
    """One assigned variant. `fallbacks` were answered by the champion in its place, `errors` by nobody.

    `shadows` are answers of this variant that nobody was served, in an experiment by pairs: they are scored and paid
    for, and count nowhere else. `latency` holds the µs at `QUANTILES`. `cost` sums the calls of this variant, whichever
    prediction they were made for, in picodollars; None if any is unpriced.
    """

    variant: str
    predictions: int
    errors: int
    fallbacks: int
    shadows: int
    latency: tuple[int, ...]
    cost: int | None
    scores: dict[str, Score]


def analytics(
    conn: sa.Connection, program: str, since: int, until: int, sources: Mapping[str, Sequence[Source]]
) -> list[VariantAnalytics]:
    """A program's variants over [since, until) µs, by name.

    `sources` maps each metric to its trusted sources, the most trusted first; a prediction counts once per metric.
    """
    span = (predictions.c.program == program, predictions.c.created_at >= since, predictions.c.created_at < until)
    counts = _counts(conn, span)
    latency = _latency(conn, span)
    cost = _cost(conn, span)
    scores = _scores(conn, span, sources)
    return [
        VariantAnalytics(
            variant=variant,
            **counts.get(variant, dict.fromkeys(_COUNTED, 0)),
            latency=latency.get(variant, ()),
            cost=cost.get(variant, 0),
            scores=scores.get(variant, {}),
        )
        for variant in sorted({*counts, *cost})
    ]


def start_of_latest(conn: sa.Connection, program: str, since: int, until: int, most: int) -> int:
    """From when (µs) on [since, until) holds at most about so many of a program's predictions, the latest."""
    p = predictions.c
    query = sa.select(p.created_at).where(p.program == program, p.created_at >= since, p.created_at < until)
    first: int | None = conn.scalar(query.order_by(p.created_at.desc()).offset(most - 1).limit(1))
    return since if first is None else first


def _counts(conn: sa.Connection, span: Sequence[sa.ColumnElement[bool]]) -> dict[str, dict[str, int]]:
    p = predictions.c
    tests = (_SERVED, _SERVED & (p.status == "error"), p.status == "fallback", ~_SERVED)
    query = sa.select(
        p.assigned_variant,
        *(sa.func.count(sa.case((test, 1))).label(name) for name, test in zip(_COUNTED, tests, strict=True)),
    ).where(*span)
    rows = conn.execute(query.group_by(p.assigned_variant))
    return {row.assigned_variant: {name: row._mapping[name] for name in _COUNTED} for row in rows}


def _latency(conn: sa.Connection, span: Sequence[sa.ColumnElement[bool]]) -> dict[str, tuple[int, ...]]:
    """The smallest latency that at least a share q of the predictions did not exceed, for each q of `QUANTILES`."""
    p = predictions.c
    ranked = (
        sa.select(
            p.assigned_variant.label("variant"),
            p.latency,
            sa.func.row_number().over(partition_by=p.assigned_variant, order_by=p.latency).label("place"),
            sa.func.count().over(partition_by=p.assigned_variant).label("of"),
        )
        .where(*span, _SERVED)
        .subquery()
    )
    r = ranked.c
    at = [sa.func.min(sa.case((r.place >= r.of * q, r.latency))) for q in QUANTILES]
    return {row[0]: tuple(row[1:]) for row in conn.execute(sa.select(r.variant, *at).group_by(r.variant))}


def _cost(conn: sa.Connection, span: Sequence[sa.ColumnElement[bool]]) -> dict[str, int | None]:
    """Answered predictions were paid for by one variant; of the others, which are few, every call is looked at."""
    p = predictions.c
    sums: dict[str, int] = {}
    unpriced: set[str] = set()
    query = sa.select(p.assigned_variant, sa.func.sum(p.cost), sa.func.count(sa.case((p.cost.is_(None), 1))))
    for variant, cost, without in conn.execute(query.where(*span, p.status == "ok").group_by(p.assigned_variant)):
        sums[variant] = int(cost or 0)
        unpriced.update([variant] if without else [])
    for calls in conn.scalars(sa.select(p.calls).where(*span, p.status != "ok")):
        for call in decode(calls, tuple[Call, ...]):
            sums[call.variant] = sums.get(call.variant, 0) + (call.cost or 0)
            unpriced.update([call.variant] if call.cost is None else [])
    return {variant: None if variant in unpriced else cost for variant, cost in sums.items()}


def _scores(
    conn: sa.Connection, span: Sequence[sa.ColumnElement[bool]], sources: Mapping[str, Sequence[Source]]
) -> dict[str, dict[str, Score]]:
    ranks = [
        (sa.and_(outcomes.c.metric == metric, outcomes.c.source == source), rank)
        for metric, trusted in sources.items()
        for rank, source in enumerate(trusted)
    ]
    if not ranks:
        return {}
    p, o = predictions.c, outcomes.c
    rank = sa.case(*ranks)
    first = (
        sa.select(
            p.assigned_variant.label("variant"),
            (p.status == "ok").label("answered"),
            o.metric,
            o.value,
            sa.func.row_number().over(partition_by=(o.prediction_id, o.metric), order_by=rank).label("turn"),
        )
        .join(outcomes, o.prediction_id == p.prediction_id)
        .where(*span, rank.is_not(None))
        .subquery()
    )
    f = first.c
    answered = sa.case((f.answered, f.value))
    query = sa.select(
        f.variant, f.metric, sa.func.count(answered), sa.func.avg(answered), sa.func.count(sa.case((~f.answered, 1)))
    ).where(f.turn == 1)
    found: dict[str, dict[str, Score]] = {}
    for variant, metric, n, mean, failed in conn.execute(query.group_by(f.variant, f.metric)):
        found.setdefault(variant, {})[metric] = Score(n, mean, failed)
    return found


def tokens_per_prediction(
    conn: sa.Connection, program: str, variant: str, latest: int = 500
) -> tuple[float, float] | None:
    """Mean input and output tokens of the latest predictions that a variant answered itself; None without any."""
    p = predictions.c
    mine = sa.select(p.input_tokens, p.output_tokens).where(
        p.program == program, p.variant == variant, p.status == "ok"
    )
    some = mine.order_by(p.created_at.desc()).limit(latest).subquery()
    given, made = conn.execute(sa.select(sa.func.avg(some.c.input_tokens), sa.func.avg(some.c.output_tokens))).one()
    return None if given is None else (float(given), float(made))
