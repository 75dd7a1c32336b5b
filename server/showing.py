"""What only the leader shows, read from the database: two jobs of its clock.

`show` tells where things stand, and is cheap; `survey` reads a day's predictions, and runs less often. Each tells all
there is, so that a new leader shows everything after its first tick, also of what has long stood still.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from experiments.experiment import Experiment
from experiments.folding import Evidence
from experiments.metrics import IMPLICIT
from experiments.quantities import SECOND
from learning.definitions import LearningOptions
from monitoring.domain import Learning, Survey
from server.ratchet import Ratchet
from server.schedules import month_of
from server.store import Connection
from server.store.analytics import VariantAnalytics, analytics, start_of_latest
from server.store.drifts import KeptWatch, watched_programs
from server.store.figures import Run, alarm_counts, compile_figures, last_told, live_evidence
from server.traffic import Program
from server.wire import analytics as wire

SURVEYED = 86_400 * SECOND
"""The stretch of matured predictions that is surveyed."""
MOST = 20_000
"""At most so many of each program's are, the latest: enough for a mean, and it bounds what a survey costs."""


class Standing(msgspec.Struct, frozen=True):
    """Where everything stands, by program."""

    live: Mapping[str, tuple[Experiment, Evidence]]
    runs: Mapping[str, Sequence[Run]]
    told: Mapping[str, int]
    watches: Mapping[str, KeptWatch]
    alarms: Mapping[str, Mapping[tuple[str, str], int]]


async def show(ratchet: Ratchet) -> None:
    """Show where experiments, detectors and compile runs stand."""
    found = await ratchet.store.read(_standing)
    domain, now = ratchet.metrics.domain, ratchet.now()
    for program in ratchet.traffic.programs:
        name, options = program.name, program.definition.learning
        domain.weighed(name, found.live.get(name))
        domain.compiled(name, learning(found.runs.get(name, ()), options, found.told.get(name), now))
        watch = found.watches.get(name)
        readings, at = (watch.body.readings, watch.updated_at) if watch else ([], None)
        domain.drifted(name, readings, found.alarms.get(name, {}), at)


def _standing(conn: Connection) -> Standing:
    return Standing(
        live_evidence(conn), compile_figures(conn), last_told(conn), watched_programs(conn), alarm_counts(conn)
    )


def learning(runs: Sequence[Run], options: LearningOptions, told: int | None, now: int) -> Learning:
    """A program's compile runs, added up; `told` is when (µs) the one under way last told of itself."""
    month = month_of(now)
    progress = next((run.progress for run in runs if run.state == "running"), None)
    return Learning(
        runs=Counter((run.reason, run.state) for run in runs),
        spent=sum(run.spent for run in runs),
        month=sum(run.spent for run in runs if run.created_at >= month),
        budget=options.monthly_budget,
        progress=progress.metric_calls / max(1, progress.metric_calls_budget) if progress else None,
        progressed_at=told,
    )


async def survey(ratchet: Ratchet) -> None:
    """Show what became of every program's latest predictions that have had their outcome window."""
    for program in ratchet.traffic.programs:
        until = ratchet.now() - program.definition.experiments.resolve().outcome_window
        found = await ratchet.store.read(_latest, program, until)
        ratchet.metrics.domain.surveyed(program.name, surveyed(program, found))


def _latest(conn: Connection, program: Program, until: int) -> list[VariantAnalytics]:
    sources = {name: metric.sources for name, metric in program.definition.metrics.items()}
    since = start_of_latest(conn, program.name, until - SURVEYED, until, MOST)
    return analytics(conn, program.name, since, until, sources)


def surveyed(program: Program, found: Sequence[VariantAnalytics]) -> Survey:
    """The same figures as those of /v1/programs/{program}/analytics, as Prometheus wants them."""
    metrics, goal = program.definition.metrics, program.definition.goal
    figures = wire.analytics(found, window=SURVEYED, metrics=metrics, goal=goal).variants
    reported = goal is not None and metrics[goal].kind not in IMPLICIT
    answers = {each.variant: each.predictions + each.shadows for each in found}
    return Survey(
        scores={
            (each.variant, name): metrics[name].score(score.mean)
            for each in figures
            for name, score in each.scores.items()
            if score.mean is not None and metrics[name].bounded
        },
        cost_per_correct={
            each.variant: float(each.cost_per_correct_usd) for each in figures if each.cost_per_correct_usd is not None
        },
        coverage={
            each.variant: each.scores[goal].n / answers[each.variant] if goal in each.scores else 0.0
            for each in figures
            if reported and answers[each.variant]
        },
    )
