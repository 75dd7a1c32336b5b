"""Outcomes as they are reported: each judged by itself, all recorded in one group, and what became of every one.

An item says one thing about one prediction: the value of a metric, a label (which decides every metric that is scored
on a field it holds), or a comment. It may therefore be several rows; its status is their worst news.
"""

import asyncio
import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from experiments.errors import Invalid, NotFound, RowRefused, nearest
from experiments.experiment import Experiment
from experiments.facts import Outcome, OutcomeStatus, Remark, shadow_id, shadowed_id
from experiments.metrics import IMPLICIT, LABELLED, Metric, scored_by_label
from experiments.quantities import SECOND
from learning.programs import Blueprint, check_label
from server.parameters import LONGEST
from server.ratchet import Ratchet
from server.store import Connection
from server.store.experiments import experiment as stored_experiment
from server.store.facts import Scorable, said_of, scorable_predictions
from server.wire.serving import OutcomeItem, OutcomeResult

_WORST_FIRST: tuple[OutcomeStatus, ...] = ("conflict", "late", "accepted", "duplicate")


class Rules(msgspec.Struct, frozen=True):
    """By what an outcome is judged: the program's fields, the metrics in force for its prediction, the window in µs."""

    blueprint: Blueprint
    metrics: Mapping[str, Metric]
    window: int


class Rows(msgspec.Struct, frozen=True):
    """What one item comes to."""

    outcomes: tuple[Outcome, ...] = ()
    remarks: tuple[Remark, ...] = ()


async def report(ratchet: Ratchet, items: Sequence[OutcomeItem | Invalid]) -> list[OutcomeResult]:
    """Record every sound item, all in one group; the results are in the order of the items.

    Raises: Busy, Unavailable with nothing recorded.
    """
    return await ratchet.traffic.carry(_report(ratchet, items), ratchet.now())


async def _report(ratchet: Ratchet, items: Sequence[OutcomeItem | Invalid]) -> list[OutcomeResult]:
    now = ratchet.now()
    ids = {item.prediction_id for item in items if isinstance(item, OutcomeItem) and len(item.prediction_id) <= LONGEST}
    predictions, experiments = await ratchet.store.read(_reported_on, ids)
    ratchet.traffic.refuse_if_late(now, 0, ratchet.now())
    with ratchet.store.journal.reserve(len(items)) as slot:

        async def one(item: OutcomeItem | Invalid) -> OutcomeResult:
            try:
                if isinstance(item, Invalid):
                    raise item
                prediction = _known(item.prediction_id, predictions)
                rows = rows_of(item, prediction, _rules(ratchet, prediction, experiments), now)
                statuses = await slot.record(rows.outcomes, rows.remarks)
                if item.label is not None and _by_pairs(prediction, experiments):
                    await score_shadow(ratchet, prediction.prediction_id)
            except (Invalid, NotFound, RowRefused) as error:
                ratchet.metrics.outcomes.labels("", "", "", "rejected").inc()
                return OutcomeResult(
                    item.prediction_id if isinstance(item, OutcomeItem) else None, "rejected", error.detail
                )
            _count(ratchet, prediction, rows, statuses)
            return OutcomeResult(item.prediction_id, min(statuses, key=_WORST_FIRST.index))

        return list(await asyncio.gather(*map(one, items)))


def _reported_on(conn: Connection, ids: Collection[str]) -> tuple[dict[str, Scorable], dict[str, Experiment]]:
    """The predictions with these ids, and the experiments they count in."""
    predictions = scorable_predictions(conn, ids)
    counted = {prediction.experiment_id for prediction in predictions.values() if prediction.experiment_id}
    return predictions, {experiment_id: stored_experiment(conn, experiment_id) for experiment_id in counted}


def _by_pairs(prediction: Scorable, experiments: Mapping[str, Experiment]) -> bool:
    return prediction.experiment_id is not None and experiments[prediction.experiment_id].settings.pairs


async def score_shadow(ratchet: Ratchet, prediction_id: str) -> None:
    """Score a prediction's shadow by the labels that stand for the prediction, received now.

    To be called once a label is stored, and once a shadow is: whichever is the later of the two finds the other.
    Doing it twice changes nothing. Raises: Busy, Unavailable.
    """
    now, shadow = ratchet.now(), shadow_id(prediction_id)
    predictions, experiments = await ratchet.store.read(_reported_on, {shadow})
    if shadow not in predictions:
        return
    standing, said = await ratchet.store.read(said_of, prediction_id)
    rules = _rules(ratchet, predictions[shadow], experiments)
    try:
        scored = _rescored(predictions[shadow], standing, said, rules, now)
    except Invalid:  # its content has been deleted: the pair is lost
        return
    if scored:
        await ratchet.store.journal.record(scored)


def _rescored(
    shadow: Scorable, standing: Sequence[Outcome], said: Sequence[Remark], rules: Rules, now: int
) -> list[Outcome]:
    """The outcomes that stand for a prediction and were scored by a label, as they are for its shadow."""
    late = now >= shadow.created_at + rules.window
    return [
        msgspec.structs.replace(outcome, prediction_id=shadow.prediction_id, value=value, late=late, received_at=now)
        for remark in said
        if remark.label is not None
        for metric, value, digest in _from_label(remark.label, shadow, rules)
        for outcome in standing
        if (outcome.metric, outcome.source, outcome.digest) == (metric, remark.source, digest)
    ]


def _known(prediction_id: str, predictions: Mapping[str, Scorable]) -> Scorable:
    if served := shadowed_id(prediction_id):
        raise NotFound(f"/prediction_id: nobody was served this answer; report about {served[:LONGEST]!r}")
    if prediction := predictions.get(prediction_id):
        return prediction
    raise NotFound(f"/prediction_id: there is no prediction {prediction_id[:LONGEST]!r}")


def _rules(ratchet: Ratchet, prediction: Scorable, experiments: Mapping[str, Experiment]) -> Rules:
    """An experiment's metrics and window are the ones it was created with, whatever the definition says today."""
    program = ratchet.traffic.program(prediction.program)
    definition = program.definition
    if prediction.experiment_id is None:
        return Rules(program.blueprint, definition.metrics, definition.experiments.resolve().outcome_window)
    experiment = experiments[prediction.experiment_id]
    return Rules(program.blueprint, {**definition.metrics, **experiment.metrics}, experiment.settings.outcome_window)


def _count(ratchet: Ratchet, prediction: Scorable, rows: Rows, statuses: Sequence[OutcomeStatus]) -> None:
    labels = prediction.program, ratchet.metrics.slot(prediction.program, prediction.assigned_variant)
    for outcome, status in zip(rows.outcomes, statuses, strict=False):  # the statuses of remarks come after
        ratchet.metrics.outcomes.labels(*labels, outcome.metric, status).inc()
        if status == "accepted":
            delay = outcome.received_at - prediction.created_at
            ratchet.metrics.outcome_delay.labels(prediction.program).observe(delay / SECOND)


def rows_of(item: OutcomeItem, prediction: Scorable, rules: Rules, now: int) -> Rows:
    """The rows of one item about `prediction`. Raises: Invalid saying what is wrong and what is allowed."""
    late = now >= prediction.created_at + rules.window
    outcomes = tuple(
        Outcome(
            prediction_id=prediction.prediction_id,
            metric=metric,
            source=item.source,
            value=value,
            digest=digest,
            late=late,
            received_at=now,
        )
        for metric, value, digest in _values(item, prediction, rules)
    )
    remarks = tuple(
        Remark(
            prediction_id=prediction.prediction_id,
            source=item.source,
            digest=_digest(said),
            label=said if isinstance(said, dict) else None,
            comment=said if isinstance(said, str) else None,
            received_at=now,
        )
        for said in (item.label, item.comment)
        if said
    )
    if not outcomes and not remarks:
        raise Invalid.at("", "reports nothing: send a `label`, a `metric` with its `value`, or a `comment`")
    return Rows(outcomes, remarks)


def _values(item: OutcomeItem, prediction: Scorable, rules: Rules) -> list[tuple[str, float, str]]:
    """Metric, value and digest of each outcome in an item."""
    if item.label is not None and (item.metric is not None or item.value is not None):
        raise Invalid.at("/label", "a label and a value cannot come together; report them as two outcomes")
    if item.label is not None:
        return _from_label(item.label, prediction, rules)
    if item.metric is None and item.value is None:
        return []
    if item.metric is None:
        raise Invalid.at("/metric", f"which metric has this value? {nearest('', _reportable(rules.metrics))}")
    return [_from_value(item.metric, item.value, rules.metrics)]


def _from_value(name: str, value: bool | float | None, metrics: Mapping[str, Metric]) -> tuple[str, float, str]:
    metric = metrics.get(name)
    if metric is None:
        raise Invalid.at("/metric", f"no metric is called {name!r}; {nearest(name, _reportable(metrics))}")
    if metric.kind in IMPLICIT:
        raise Invalid.at("/metric", f"{name!r} is observed by the server itself; nobody reports it")
    if metric.kind in LABELLED:
        raise Invalid.at(
            "/metric", f"{name!r} is scored from a label: send `label: {{{metric.field}: ...}}` in its place"
        )
    if value is None:
        raise Invalid.at("/value", f"the value of {name!r} is missing")
    try:
        number = metric.check_value(value)
    except ValueError as error:
        raise Invalid.at("/value", str(error)) from None
    return name, number, _digest(number)


def _from_label(label: dict[str, Any], prediction: Scorable, rules: Rules) -> list[tuple[str, float, str]]:
    check_label(rules.blueprint, label)
    return [
        (name, _score(metric, label, prediction), _digest({metric.field: label[metric.field or ""]}))
        for name in scored_by_label(rules.metrics, label)
        for metric in [rules.metrics[name]]
    ]


def _score(metric: Metric, label: dict[str, Any], prediction: Scorable) -> float:
    """The score of what was served against the label; the worst one where nothing was."""
    field = metric.field or ""
    if prediction.status == "error":
        return 1.0 if metric.lower_is_better else 0.0
    if prediction.output is None:
        raise Invalid.at("/label", "the content of this prediction has been deleted: there is nothing left to compare")
    return metric.compare(label[field], prediction.output.get(field))


def _reportable(metrics: Mapping[str, Metric]) -> list[str]:
    return [name for name, metric in metrics.items() if metric.kind not in IMPLICIT | LABELLED]


def _digest(said: Any) -> str:
    """Tells two values, labels or comments apart without keeping them."""
    return hashlib.blake2b(msgspec.json.encode(said, order="deterministic"), digest_size=16).hexdigest()
