"""What a planned experiment is likely to take, from the program's own traffic and the engine's own code."""

import asyncio
import math

import msgspec

from experiments.errors import Fault, Invalid, nearest
from experiments.experiment import Experiment
from experiments.life import NewExperiment
from experiments.metrics import IMPLICIT, Metric
from experiments.planning import Plan, plan
from experiments.simulation import DAY, Assumption
from server.ratchet import Ratchet
from server.store.analytics import VariantAnalytics, analytics
from server.trials.acts import next_level
from server.trials.lifecycle import drafted

PAST = 30 * DAY
"""How far back the champion's own outcomes are looked at."""
UNKNOWN_ERRORS = 0.01
"""The share of errors of a champion that has not served yet."""
SEED = 20_260_101
"""One for all: equal questions get equal answers."""


class NewPlan(NewExperiment, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An experiment as it would be asked for, and its traffic.

    `units_per_day` counts new units, or requests under `randomize: request`. `baseline` says what the champion's mean
    is on a metric, in the metric's own unit; what it leaves out comes from its outcomes of the last 30 days. Without
    `challengers`, a plan is about one that is yet to be made. Of an experiment by pairs, `units_per_day` counts all
    requests, and `agreement` is the share of them on which both variants score alike on the goal; without it they do so
    as often as chance has it, which is the least to hope for. `explained` is the share of the goal's variance that the
    experiment's `covariates` explain; without it, none.
    """

    units_per_day: float
    baseline: dict[str, float] = msgspec.field(default_factory=dict)
    agreement: float | None = None
    explained: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.01 <= self.units_per_day <= 1e9:
            raise ValueError(f"units_per_day: {self.units_per_day:g} is not between 0.01 and 1e9")
        if self.agreement is not None and not 0 <= self.agreement <= 1:
            raise ValueError(f"agreement: {self.agreement:g} is not a share from 0 to 1")
        if self.explained is not None and not 0 <= self.explained < 1:
            raise ValueError(f"explained: {self.explained:g} is not a share from 0 to below 1")


class Planned(msgspec.Struct, frozen=True):
    """The experiment as it would be, what was assumed of its champion, and the plan."""

    experiment: Experiment
    assumed: dict[str, Assumption]
    plan: Plan


async def planned(ratchet: Ratchet, wanted: NewPlan) -> Planned:
    """Simulate the experiment that `wanted` describes. Raises: Invalid with a fault for each wrong field."""
    unmade = not wanted.challengers and not wanted.aa
    made, champion = await drafted(ratchet, msgspec.structs.replace(wanted, aa=True) if unmade else wanted)
    if unmade:
        made = msgspec.structs.replace(made, aa=False)
    if not made.aa:
        _, _, level = await ratchet.store.read(next_level, made.program, made.settings.alpha)
        made = msgspec.structs.replace(made, level=level)
    now = ratchet.now()
    sources = {name: metric.sources for name, metric in made.metrics.items()}
    found = await ratchet.store.read(analytics, made.program, now - PAST, now + 1, sources)
    past = next((variant for variant in found if variant.variant == champion.name), None)
    assumed = _assumptions(made, wanted, past)
    simulated = await asyncio.to_thread(plan, made, assumed, wanted.units_per_day, seed=SEED)
    return Planned(made, assumed, simulated)


def _assumptions(made: Experiment, wanted: NewPlan, past: VariantAnalytics | None) -> dict[str, Assumption]:
    """What each compared metric is taken to be. Raises: Invalid where nothing is known, or what is said cannot be."""
    baseline = wanted.baseline
    faults = _misplaced(made, wanted) + [
        Fault(f"/baseline/{name}", f"no compared metric is called {name!r}; {nearest(name, made.compared)}")
        for name in baseline
        if name not in made.compared
    ]
    assumed = {}
    for name in made.compared:
        metric = made.metrics[name]
        try:
            given = metric.check_value(baseline[name]) if name in baseline and metric.kind != "boolean" else None
            if metric.kind == "boolean" and name in baseline:
                given = _share(baseline[name])
        except ValueError as error:
            faults.append(Fault(f"/baseline/{name}", str(error)))
            continue
        found = _assumption(metric, given, past, name)
        if found is None:
            faults.append(
                Fault(f"/baseline/{name}", f"the champion has no {name!r} outcomes yet: say here what its mean is")
            )
        else:
            assumed[name] = found
    if faults:
        raise Invalid(faults[0].message, faults=faults)
    more = {"agreement": wanted.agreement, "explained": wanted.explained or 0.0}
    return {**assumed, made.goal: msgspec.structs.replace(assumed[made.goal], **more)}


def _misplaced(made: Experiment, wanted: NewPlan) -> list[Fault]:
    """What is said of an experiment in which it means nothing."""
    faults = []
    if wanted.agreement is not None and not made.settings.pairs:
        faults.append(Fault("/agreement", "only by pairs do two answers to one request agree; plan with `pairs: true`"))
    if wanted.explained is None:
        return faults
    if made.settings.pairs:
        faults.append(Fault("/explained", "covariates have nothing to add to two answers to the same request"))
    elif not made.settings.covariates:
        faults.append(Fault("/explained", "the experiment has no `covariates`; name those that explain the goal"))
    elif not made.metrics[made.goal].bounded:
        faults.append(Fault("/explained", f"covariates do not sharpen {made.goal!r}, which is compared as a ratio"))
    return faults


def _share(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{value!r} is not a share between 0 and 1")
    return value


def _assumption(metric: Metric, given: float | None, past: VariantAnalytics | None, name: str) -> Assumption | None:
    if metric.kind == "latency" and not metric.bounded:
        return Assumption(given or 0.0, _spread_of_latency(past))
    if not metric.bounded:
        return Assumption(given or 0.0)
    if given is not None:
        return Assumption(given)
    if metric.kind == "error":
        seen = past is not None and past.predictions > 0
        return Assumption((past.errors + past.fallbacks) / past.predictions if past and seen else UNKNOWN_ERRORS)
    score = past.scores.get(name) if past and metric.kind not in IMPLICIT else None
    if score is None or not score.n + score.failed:
        return None
    worst = metric.bounds[1] if metric.lower_is_better else metric.bounds[0]
    return Assumption(((score.mean or 0.0) * score.n + worst * score.failed) / (score.n + score.failed))


def _spread_of_latency(past: VariantAnalytics | None) -> float | None:
    """The deviation of log latency that its median and 95th of a hundred suggest; 1.645 is the normal's."""
    if past is None or len(past.latency) < 2 or not 0 < past.latency[0] < past.latency[1]:
        return None
    return math.log(past.latency[1] / past.latency[0]) / 1.645
