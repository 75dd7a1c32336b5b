"""What a decision tick reads and keeps: the units of each block of assignment time, and the evidence folded so far.

Everything is read by time of assignment and cut at a stated moment, never "since the last id", so that a replay finds
exactly the rows a decision saw. Spans are [start, end) in µs. What is called `experiment_id` here may also be the id
of a holdback's evidence (`experiments.assignment: holdback_id`).
"""

from collections.abc import Iterable, Sequence
from typing import Any, Generic, Literal, TypeVar

import msgspec
import sqlalchemy as sa

from experiments.assignment import predictions_of
from experiments.errors import Stale
from experiments.facts import ArmCounts, Entrant, Exposure
from server.store.rows import decode, encode, insert, insert_new
from server.store.tables import blocks, entrants, evidence, outcomes, points, predictions

T = TypeVar("T")
Randomize = Literal["unit", "request"]


class Kept(msgspec.Struct, Generic[T], frozen=True):
    """Folded evidence as stored: `blocks` folded, facts complete up to `horizon` (µs), and the state itself."""

    blocks: int
    horizon: int
    body: T


def next_exposure(conn: sa.Connection, experiment_id: str, since: int, until: int) -> int | None:
    """When (µs) the first prediction in [since, until) was assigned; None when there is none: the blocks are empty."""
    p = predictions.c
    query = sa.select(sa.func.min(p.created_at)).where(*_assigned(experiment_id, since, until))
    first: int | None = conn.scalar(query)
    return first


def register_units(
    conn: sa.Connection, experiment_id: str, randomize: Randomize, number: int, start: int, end: int
) -> dict[int, dict[str, int]]:
    """Enter the units first met in block `number` = [start, end), and count the block's entrants by epoch and arm.

    Blocks must be registered in order, each once everything assigned in it is stored. Again for the same block: no
    change, same counts. Under `randomize: request` every prediction is a unit, unless it tries an earlier one again;
    nothing is written.
    """
    if randomize == "unit":
        _enter(conn, experiment_id, number, start, end)
    return unit_counts(conn, experiment_id, randomize, number, start, end)


def _enter(conn: sa.Connection, experiment_id: str, number: int, start: int, end: int) -> None:
    p = predictions.c
    turn = sa.func.row_number().over(partition_by=p.unit_hash, order_by=(p.created_at, p.prediction_id))
    seen = (
        sa.select(p.unit_hash, p.assigned_variant, p.epoch, p.created_at, turn.label("turn"))
        .where(*_assigned(experiment_id, start, end))
        .subquery()
    )
    first = sa.select(
        sa.literal(experiment_id),
        seen.c.unit_hash,
        sa.literal(number, sa.BigInteger),
        seen.c.assigned_variant,
        seen.c.epoch,
        seen.c.created_at,
    ).where(seen.c.turn == 1)
    columns = ["experiment_id", "unit_hash", "block", "variant", "epoch", "entered_at"]
    # Those who entered in an earlier block stay as they are.
    conn.execute(insert(conn, entrants).from_select(columns, first).on_conflict_do_nothing())


def unit_counts(
    conn: sa.Connection, experiment_id: str, randomize: Randomize, number: int, start: int, end: int
) -> dict[int, dict[str, int]]:
    """The entrants of a registered block by epoch and arm. Writes nothing, so that a replay may use it."""
    if randomize == "unit":
        e = entrants.c
        query = sa.select(e.epoch, e.variant.label("arm"), sa.func.count().label("n")).where(
            e.experiment_id == experiment_id, e.block == number
        )
    else:
        p = predictions.c
        query = sa.select(p.epoch, p.assigned_variant.label("arm"), sa.func.count().label("n")).where(
            *_assigned(experiment_id, start, end), _first_try(experiment_id)
        )
    counts: dict[int, dict[str, int]] = {}
    for row in conn.execute(query.group_by("epoch", "arm").order_by("epoch", "arm")):
        counts.setdefault(row.epoch, {})[row.arm] = row.n
    return counts


def block_units(  # noqa: PLR0913 -- a block is a number and a span, and what counts of it is cut three ways
    conn: sa.Connection,
    experiment_id: str,
    randomize: Randomize,
    number: int,
    start: int,
    end: int,
    *,
    cut: int,
    window: int,
    per_unit: int = 5,
    one_epoch: bool = False,
) -> list[Entrant]:
    """The units of a registered block with what was known of them at `cut` (µs), in order of entry.

    A unit brings its first `per_unit` predictions in the arm it entered, made within `window` µs of its entry and
    before `cut`, and with `one_epoch` under the split of its entry; a prediction brings its outcomes received before
    `cut` and not late. `failed` means that the assigned variant did not answer; `latency` and `cost` are those of the
    whole prediction, a fallback's included; `tokens` those of the assigned variant's own calls.
    """
    counted = (
        _counted_by_unit(experiment_id, number, (start, min(end + window, cut)), window, per_unit, one_epoch)
        if randomize == "unit"
        else _counted_by_request(experiment_id, start, min(end, cut))
    ).subquery()
    heard: dict[str, list[Any]] = {}
    o = outcomes.c
    query = (
        sa.select(o.prediction_id, o.metric, o.source, o.value, o.received_at)
        .join(counted, counted.c.prediction_id == o.prediction_id)
        .where(~o.late, o.received_at < cut)
        .order_by(o.prediction_id, o.metric, o.source)
    )
    for row in conn.execute(query):
        heard.setdefault(row.prediction_id, []).append((row.metric, row.source, row.value, row.received_at))
    ordered = sa.select(counted).order_by(
        counted.c.entered_at, counted.c.unit_hash, counted.c.created_at, counted.c.prediction_id
    )
    return _units(conn.execute(ordered), heard)


def _counted_by_request(experiment_id: str, start: int, end: int) -> sa.Select[Any]:
    p = predictions.c
    return sa.select(
        *_EXPOSED, p.unit_hash, p.assigned_variant.label("arm"), p.epoch, p.created_at.label("entered_at")
    ).where(*_assigned(experiment_id, start, end), _first_try(experiment_id))


def _first_try(experiment_id: str) -> sa.ColumnElement[bool]:
    """Under `randomize: request` the tries with one Idempotency-Key share one coin, and are one unit: the first."""
    p, earlier = predictions.c, predictions.alias("earlier").c
    owner, first = predictions_of(experiment_id)
    return ~sa.exists().where(
        earlier.experiment_id == owner,
        earlier.unit_hash == p.unit_hash,
        earlier.created_at < p.created_at,
        earlier.epoch >= first,
    )


def _counted_by_unit(
    experiment_id: str, number: int, span: tuple[int, int], window: int, per_unit: int, one_epoch: bool
) -> sa.Select[Any]:
    """`span` holds all that may count for the block's units; without it everything stored would be searched."""
    p, e = predictions.c, entrants.c
    owner, first = predictions_of(experiment_id)
    turn = sa.func.row_number().over(partition_by=p.unit_hash, order_by=(p.created_at, p.prediction_id))
    all_of_them = (
        sa.select(*_EXPOSED, e.unit_hash, e.variant.label("arm"), e.epoch, e.entered_at, turn.label("turn"))
        .join(predictions, (p.experiment_id == owner) & (p.unit_hash == e.unit_hash))
        .where(
            e.experiment_id == experiment_id,
            e.block == number,
            p.assigned_variant == e.variant,
            p.epoch >= first,
            p.created_at >= e.entered_at,
            p.created_at < e.entered_at + window,
            *((p.epoch == e.epoch,) if one_epoch else ()),
            p.created_at >= span[0],
            p.created_at < span[1],
        )
        .subquery()
    )
    return sa.select(all_of_them).where(all_of_them.c.turn <= per_unit)


def _units(rows: Iterable[sa.Row[Any]], heard: dict[str, list[Any]]) -> list[Entrant]:
    """Rows in order of entry, each with the columns of `_EXPOSED` and of its unit, gathered by unit."""
    gathered: dict[tuple[str, str, int, int], list[Exposure]] = {}
    for row in rows:
        exposure = Exposure(
            prediction_id=row.prediction_id,
            created_at=row.created_at,
            failed=row.status != "ok",
            latency=row.latency,
            cost=row.cost,
            tokens=row.assigned_tokens,
            outcomes=tuple(heard.get(row.prediction_id, ())),
            covariates=decode(row.covariates, dict[str, float | str]) if row.covariates else {},
        )
        gathered.setdefault((row.unit_hash, row.arm, row.epoch, row.entered_at), []).append(exposure)
    return [Entrant(*unit, exposures=tuple(exposures)) for unit, exposures in gathered.items()]


_EXPOSED: Sequence[sa.ColumnElement[Any]] = (
    predictions.c.prediction_id,
    predictions.c.created_at,
    predictions.c.status,
    predictions.c.latency,
    predictions.c.cost,
    predictions.c.assigned_tokens,
    predictions.c.covariates,
)


def _assigned(experiment_id: str, start: int, end: int) -> tuple[sa.ColumnElement[bool], ...]:
    p = predictions.c
    owner, first = predictions_of(experiment_id)
    # The epoch only where it tells something apart: it is no part of the index on experiment and time.
    since = (p.epoch >= first,) if first else ()
    return p.experiment_id == owner, p.created_at >= start, p.created_at < end, *since


def arm_counts(
    conn: sa.Connection,
    experiment_id: str,
    metric: str,
    sources: Sequence[str],
    *,
    cut: int,
    window: int,
    until: int | None = None,
) -> dict[str, ArmCounts]:
    """Predictions by arm and by what became of their outcome of `metric` from any of `sources`, as of `cut` (µs).

    Those assigned from `until` on, where given, are not the experiment's own but its holdback's.
    """
    p, o = predictions.c, outcomes.c
    reported = sa.exists().where(
        o.prediction_id == p.prediction_id, o.metric == metric, o.source.in_(sources), o.received_at < cut
    )
    each = (
        sa.select(
            p.assigned_variant.label("arm"),
            (p.created_at > cut - window).label("young"),
            reported.where(~o.late).label("arrived"),
            reported.where(o.late).label("late"),
        )
        .where(*_assigned(experiment_id, 0, cut if until is None else min(cut, until)))
        .subquery()
    )
    e = each.c
    query = sa.select(
        e.arm,
        sa.func.count(),
        _how_many(e.arrived),
        _how_many(~e.arrived & e.young),
        _how_many(~e.arrived & ~e.young),
        _how_many(e.late),
    ).group_by(e.arm)
    return {row[0]: ArmCounts(*row[1:]) for row in conn.execute(query.order_by(e.arm))}


def _how_many(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.count(sa.case((condition, 1)))


def close_block(conn: sa.Connection, experiment_id: str, number: int, closed_at: int) -> None:
    """Record that a block was folded as of `closed_at` (µs). Raises: Stale when it was closed already."""
    if not insert_new(conn, blocks, experiment_id=experiment_id, number=number, closed_at=closed_at):
        raise Stale(f"block {number} of experiment {experiment_id} was closed by another process")


def closed_blocks(conn: sa.Connection, experiment_id: str) -> dict[int, int]:
    """When (µs) each folded block was closed, by number, in order."""
    query = sa.select(blocks.c.number, blocks.c.closed_at).where(blocks.c.experiment_id == experiment_id)
    return {row.number: row.closed_at for row in conn.execute(query.order_by(blocks.c.number))}


def kept_evidence(conn: sa.Connection, experiment_id: str, kind: type[T]) -> Kept[T] | None:
    """What was folded so far; None before the first tick."""
    row = conn.execute(sa.select(evidence).where(evidence.c.experiment_id == experiment_id)).one_or_none()
    return None if row is None else Kept(row.blocks, row.horizon, decode(row.body, kind))


def keep_evidence(
    conn: sa.Connection, experiment_id: str, body: object, *, blocks: int, horizon: int, before: Kept[Any] | None
) -> None:
    """Replace the evidence that was `before` (None: there was none). Raises: Stale when another tick came first."""
    values = {"blocks": blocks, "horizon": horizon, "body": encode(body)}
    if before is None:
        done = insert_new(conn, evidence, experiment_id=experiment_id, **values)
    else:
        e = evidence.c
        here = (e.experiment_id == experiment_id) & (e.blocks == before.blocks) & (e.horizon == before.horizon)
        done = conn.execute(evidence.update().where(here).values(values)).rowcount == 1
    if not done:
        raise Stale(f"the evidence of experiment {experiment_id} was folded further by another process")


def latest_horizon(conn: sa.Connection) -> int:
    """The moment (µs) up to which the facts of some experiment were taken to be complete; 0 before the first tick."""
    latest: int | None = conn.scalar(sa.select(sa.func.max(evidence.c.horizon)))
    return latest or 0


def put_point(conn: sa.Connection, experiment_id: str, number: int, challenger: str, metric: str, body: object) -> None:
    """Add one point to what the report plots over time; `number` orders them. The same one again changes nothing."""
    insert_new(
        conn,
        points,
        experiment_id=experiment_id,
        number=number,
        challenger=challenger,
        metric=metric,
        body=encode(body),
    )


def points_of(conn: sa.Connection, experiment_id: str, kind: type[T]) -> list[T]:
    """The points of an experiment in order of number, challenger and metric."""
    p = points.c
    query = sa.select(p.body).where(p.experiment_id == experiment_id).order_by(p.number, p.challenger, p.metric)
    return [decode(body, kind) for body in conn.scalars(query)]
