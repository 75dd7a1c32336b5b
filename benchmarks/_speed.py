"""What folding, ticking and reading an interval cost, on this machine now: medians of several tries."""

import math
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
import sqlalchemy as sa

from benchmarks import _late as late
from benchmarks._goals import Goal, Row, Size, seeded
from experiments import betting, folding
from experiments.assignment import Routing
from experiments.experiment import Experiment
from experiments.quantities import SECOND
from server.store.blocks import keep_evidence
from server.store.engine import Database
from server.store.experiments import insert_experiment
from server.store.routings import append_routing
from server.store.store import migrate_at
from server.store.tables import entrants, outcomes, predictions
from server.trials.ticking import fold, register

NEW = 1000
PER_BLOCK = 1000
TURNS = 15
"""Ticks of each size that are timed, after as many that warm the machine up."""


def seconds(work: Callable[[], object], tries: int = 9) -> float:
    """The median time of some tries."""
    return median(_once(work) for _ in range(tries))


def _once(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def folding_costs(_: Size) -> Iterator[Row]:
    """One block of 1,000 outcomes into the evidence, by the whole folding code; and the two-sided interval."""
    rng, trial = seeded("folding"), late.experiment()
    units = [
        late.entrant(index, bool(rng.random() < 0.5), 2, index * 0.5, float(rng.random() < 0.7), 30.0)
        for index in range(NEW)
    ]
    closed = (late.BLOCK + late.WINDOW) * SECOND
    empty = folding.begin(trial)
    whole = seconds(lambda: folding.fold(empty, trial, late.SPLITS, 0, units, closed))
    w, y, pi = rng.random(NEW) < 0.5, (rng.random(NEW) < 0.7) * 1.0, np.full(NEW, 0.5)
    state = betting.begin(min_effect=0.03)
    alone = seconds(lambda: state.fold(w, y, pi))
    detail = {"the test alone": alone / NEW * 1e6}
    yield Row(Goal("folding: microseconds per outcome, from facts to evidence", "<= 5"), whole / NEW * 1e6, {}, detail)
    for block in range(200):
        share = np.full(50, 0.1 + 0.4 * block / 200)
        state = state.fold(rng.random(50) < share, rng.random(50) < 0.7, share)
    took = seconds(lambda: state.interval(0.05))
    yield Row(Goal("confidence sequence over 200 epochs: milliseconds", "<= 20"), took * 1e3, {"prototype": 321})


def tick_costs(size: Size) -> Iterator[Row]:
    """Register and fold 1,000 new predictions beside many stored and few stored ones, in SQLite.

    The two take turns, so that whatever else the machine does is shared by both.
    """
    many, few = (1_000_000 if size.share >= 1 else 100_000), 10_000
    with _stored(few) as beside_few, _stored(many) as beside_many:
        turns = [(_once(beside_few), _once(beside_many)) for _ in range(2 * TURNS)][TURNS:]
    took = {few: median(first for first, _ in turns), many: median(second for _, second in turns)}
    slope = (took[many] - took[few]) / math.log10(many / few)
    detail = {"milliseconds": {f"{n:,}": t * 1e3 for n, t in took.items()}, "milliseconds_per_tenfold": slope * 1e3}
    detail["paired"] = {"ratio": median(second / first for first, second in turns)}
    goal = Goal(f"tick: 1,000 new beside {many:,} stored over beside 10,000", "<= 1.5")
    yield Row(goal, took[many] / took[few], {}, detail)


@contextmanager
def _stored(number: int) -> Iterator[Callable[[], None]]:
    """A tick's own reading and folding on a database of its own that holds so many predictions already folded."""
    with tempfile.TemporaryDirectory(prefix="bench-tick-") as folder:
        path = Path(folder, "ratchet.db")
        url = f"sqlite:///{path}"
        migrate_at(url)
        trial = late.experiment(randomize="unit")
        last = number // PER_BLOCK
        _fill(path, number + NEW)
        database = Database(url)
        with database.writer.begin() as conn:
            _begin(conn, trial, last)
        try:
            yield _tick(database, trial, (last + 1) * late.BLOCK * SECOND + 2 * late.WINDOW * SECOND)
        finally:
            database.close()


def _tick(database: Database, trial: Experiment, horizon: int) -> Callable[[], None]:
    def tick() -> None:
        with database.writer.connect() as conn:
            register(conn, trial, horizon)
            found = fold(conn, trial, horizon)
            assert sum(tally.units for tally in found.after.tallies.values()) == NEW, "the tick folded something else"
            conn.rollback()

    return tick


def _begin(conn: sa.Connection, trial: Experiment, blocks: int) -> None:
    """The experiment as it is when all but the last block have been folded."""
    insert_experiment(conn, trial)
    routing = Routing(
        program="p", epoch=1, champion="base", experiment_id="e", split=late.SPLITS[2], reason="", created_at=0
    )
    append_routing(conn, routing)
    before = msgspec.structs.replace(folding.begin(trial), blocks=blocks, registered=blocks)
    keep_evidence(conn, "e", before, blocks=blocks, horizon=0, before=None)


def _fill(path: Path, rows: int) -> None:
    """Predictions of units of their own with their outcomes, all entered but those of the last block."""
    gap = late.BLOCK * SECOND // PER_BLOCK

    def facts() -> Iterator[tuple[object, ...]]:
        for n in range(rows):
            arm = "new" if n % 2 else "base"
            at = n * gap
            yield (
                f"p{n:09}",
                "p",
                "e",
                1,
                f"u{n:09}",
                arm,
                arm,
                0.5,
                "ok",
                None,
                1,
                1,
                1,
                0,
                0,
                2,
                "[]",
                None,
                at,
                at + 1,
            )

    with sqlite3.connect(path) as conn:
        _insert(conn, predictions, facts())
        told = ((f"p{n:09}", "correct", "human", 1.0 * (n % 3 > 0), "d", 0, n * gap + SECOND) for n in range(rows))
        _insert(conn, outcomes, told)
        entered = (("e", f"u{n:09}", n // PER_BLOCK, "new" if n % 2 else "base", 1, n * gap) for n in range(rows - NEW))
        _insert(conn, entrants, entered)
    conn.close()


def _insert(conn: sqlite3.Connection, table: sa.Table, rows: Iterator[tuple[object, ...]]) -> None:
    names = [column.name for column in table.columns]
    values = ",".join("?" * len(names))
    conn.executemany(f"INSERT INTO {table.name} ({','.join(names)}) VALUES ({values})", rows)  # noqa: S608 -- our names
