"""The life of an experiment, as pure steps: how a draft is made, and which act is allowed in which state."""

from collections.abc import Collection, Mapping
from typing import Literal

import msgspec
from msgspec import UNSET

from experiments.errors import Conflict, Fault, Invalid, nearest
from experiments.experiment import Experiment, State, Verdict
from experiments.metrics import IMPLICIT, LABELLED, Metric
from experiments.settings import ExperimentOptions, ExperimentSettings, check_split

MAX_CHALLENGERS = 10
_LONGEST_NAME = 64
_BY_LABEL = ", ".join(sorted(LABELLED))
_MEASURED = frozenset(
    {
        "cost",
        "cost_usd",
        "error",
        "fallback",
        "latency",
        "latency_ms",
        "outcome",
        "output",
        "tokens",
        "usage",
        "variant",
    }
)
"""What is known about a prediction only once its variant was assigned, by its names in facts and answers."""

Action = Literal["start", "pause", "resume", "stop", "promote", "rollback"]
_ALLOWED: dict[Action, frozenset[State]] = {
    "start": frozenset({"draft"}),
    "pause": frozenset({"running"}),
    "resume": frozenset({"paused"}),
    "stop": frozenset({"draft", "running", "paused"}),
    "promote": frozenset({"draft", "running", "paused"}),
    "rollback": frozenset({"concluded"}),
}


class NewExperiment(ExperimentOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An experiment as asked for. What is left out comes from the program's definition."""

    program: str
    challengers: tuple[str, ...] = ()
    goal: str | None = None
    guardrails: tuple[str, ...] | None = None
    aa: bool = False


def draft(  # noqa: PLR0913 -- what a draft is made of, each by its name
    wanted: NewExperiment,
    *,
    experiment_id: str,
    champion: str,
    variants: Collection[str],
    metrics: Mapping[str, Metric],
    defaults: ExperimentOptions,
    promotion: Literal["auto", "recommend"],
    deadline: int,
    now: int,
    outputs: Collection[str] = (),
) -> Experiment:
    """The draft that `wanted` describes. `deadline` (µs) is how long a prediction of the program may take.

    `outputs` are the program's output fields, which are not known before a unit is assigned.

    Raises: Invalid, with a fault for each field that is wrong.
    """
    challengers = (twin_name(champion),) if wanted.aa else wanted.challengers
    faults = _arm_faults(wanted, champion, variants)
    goal = wanted.goal or next((name for name, metric in metrics.items() if metric.role == "goal"), None)
    guardrails = wanted.guardrails
    if guardrails is None:
        guardrails = tuple(name for name, metric in metrics.items() if metric.role == "guardrail" and name != goal)
    faults += _metric_faults(goal, guardrails, metrics)
    options = wanted.over(defaults)
    saving = None
    if options.objective == "as_good_and_cheaper" and goal is not None and goal in metrics:
        saving, metrics = _saving(metrics)
        guardrails = tuple(name for name in guardrails if name != saving)
        faults += _objective_faults(goal, saving, metrics)
    if options.pairs is True and goal is not None:
        faults += _pair_faults(challengers, goal, (goal, *guardrails), saving, metrics)
    faults += _covariate_faults(options.covariates or (), {*metrics, *outputs})
    if faults or goal is None:
        raise Invalid(faults[0].message, faults=faults)
    try:
        settings = options.resolve()
        split = _opening_split(wanted, defaults, champion, challengers, settings.ramp)
    except ValueError as error:
        raise Invalid.at("/" + str(error).partition(":")[0].partition(" ")[0], str(error)) from None
    _check_sizes(settings, metrics[saving or goal], arms=1 + len(challengers))
    return Experiment(
        experiment_id=experiment_id,
        program=wanted.program,
        state="draft",
        champion=champion,
        challengers=challengers,
        goal=goal,
        guardrails=guardrails,
        saving=saving,
        metrics={name: metrics[name] for name in (goal, *guardrails, *([saving] if saving else []))},
        settings=settings,
        promotion="recommend" if metrics[goal].expected == "volunteered" else promotion,
        aa=wanted.aa,
        split=split,
        deadline=deadline,
        created_at=now,
    )


def twin_name(champion: str) -> str:
    """What the champion's twin in an A/A experiment is called: `CHAMPION-aa`, cut to the length of a name."""
    return f"{champion[: _LONGEST_NAME - 3]}-aa"


def _arm_faults(wanted: NewExperiment, champion: str, variants: Collection[str]) -> list[Fault]:
    if wanted.aa:
        return (
            [Fault("/challengers", "an A/A experiment takes none: the champion's twin is made for it")]
            if wanted.challengers
            else []
        )
    if not wanted.challengers:
        return [Fault("/challengers", "name at least one variant to weigh against the champion, or set aa: true")]
    if len(wanted.challengers) > MAX_CHALLENGERS:
        return [Fault("/challengers", f"at most {MAX_CHALLENGERS} challengers at a time")]
    faults = []
    for place, name in enumerate(wanted.challengers):
        if name not in variants:
            faults.append(Fault(f"/challengers/{place}", f"no variant is called {name!r}; {nearest(name, variants)}"))
        elif name == champion:
            faults.append(Fault(f"/challengers/{place}", f"{name!r} is the champion; a challenger is another variant"))
        elif name in wanted.challengers[:place]:
            faults.append(Fault(f"/challengers/{place}", f"{name!r} is named twice"))
    return faults


def _metric_faults(goal: str | None, guardrails: Collection[str], metrics: Mapping[str, Metric]) -> list[Fault]:
    if goal is None:
        return [Fault("/goal", "the program declares no metric with `role: goal`; name a goal here or declare one")]
    faults = []
    if goal not in metrics:
        faults.append(Fault("/goal", f"no metric is called {goal!r}; {nearest(goal, metrics)}"))
    for place, name in enumerate(guardrails):
        if name not in metrics:
            faults.append(Fault(f"/guardrails/{place}", f"no metric is called {name!r}; {nearest(name, metrics)}"))
        elif name == goal:
            faults.append(Fault(f"/guardrails/{place}", f"{name!r} is the goal already"))
        elif metrics[name].margin is None and metrics[name].kind != "error":
            faults.append(Fault(f"/guardrails/{place}", f"{name!r} has no `margin` in its definition"))
    return faults


def _saving(metrics: Mapping[str, Metric]) -> tuple[str, Mapping[str, Metric]]:
    """The metric that has to fall, and all metrics with it: a declared one of kind cost, else one called `cost`."""
    declared = next((name for name, metric in metrics.items() if metric.kind == "cost" and not metric.bounded), None)
    return (declared, metrics) if declared else ("cost", {"cost": Metric(kind="cost"), **metrics})


def _objective_faults(goal: str, saving: str, metrics: Mapping[str, Metric]) -> list[Fault]:
    faults = []
    if metrics[saving].kind != "cost":
        faults.append(
            Fault(
                "/objective", f"as_good_and_cheaper needs a metric of kind cost; {saving!r} is {metrics[saving].kind}"
            )
        )
    if goal == saving:
        faults.append(Fault("/goal", f"{goal!r} is what has to fall already; as good on what? Name another metric"))
    elif metrics[goal].margin is None and metrics[goal].kind != "error":
        faults.append(
            Fault("/objective", f"as_good_and_cheaper needs a `margin` on {goal!r}: how much worse is still as good")
        )
    return faults


def _pair_faults(
    challengers: Collection[str],
    goal: str,
    compared: Collection[str],
    saving: str | None,
    metrics: Mapping[str, Metric],
) -> list[Fault]:
    """Of an answer nobody got, only a label speaks, and what the server itself observed."""
    faults = []
    if len(challengers) > 1:
        faults.append(Fault("/pairs", "pairs weigh one challenger at a time; each more would double the calls again"))
    if saving is not None:
        faults.append(Fault("/pairs", "costs are not compared by pairs; use a split for as_good_and_cheaper"))
    for name in compared:
        metric = metrics.get(name)
        if metric is None or metric.kind in LABELLED:
            continue
        if name == goal:
            faults.append(
                Fault("/pairs", f"the goal must be scored by a label ({_BY_LABEL}); {name!r} is of kind {metric.kind}")
            )
        elif not (metric.kind in IMPLICIT and metric.bounded):
            allowed = f"{_BY_LABEL}, error, or latency and cost with a `limit`"
            faults.append(
                Fault("/pairs", f"a guardrail must be known of both answers ({allowed}); {name!r} is {metric.kind}")
            )
    return faults


def _check_sizes(settings: ExperimentSettings, aim: Metric, arms: int) -> None:
    """Raises: Invalid where an effect or a number of units can never be reached."""
    low, high = aim.bounds
    if aim.bounded and settings.min_effect >= high - low:
        raise Invalid.at(
            "/min_effect", f"{settings.min_effect:g} is not below the goal's whole range of {high - low:g}"
        )
    if settings.max_units < settings.min_units * arms:
        raise Invalid.at(
            "/max_units", f"{settings.max_units} leaves no room for min_units={settings.min_units} in every arm"
        )


def _covariate_faults(names: Collection[str], later: Collection[str]) -> list[Fault]:
    """A covariate has to be known before its unit is assigned; what the variants bring about would hide their effect.

    `later` are the names of metrics and outputs of the program.
    """
    return [
        Fault(
            f"/covariates/{place}",
            f"{name!r} is measured after the unit was assigned; a covariate is a key of the predict request's "
            "`metadata`, known before",
        )
        for place, name in enumerate(names)
        if name in later or name.lower() in _MEASURED
    ]


def _opening_split(
    wanted: NewExperiment,
    defaults: ExperimentOptions,
    champion: str,
    challengers: tuple[str, ...],
    ramp: tuple[float, ...],
) -> dict[str, float]:
    if wanted.split is not UNSET:
        return arm_split(wanted.split, champion, challengers)
    share = ramp[0] if ramp else (defaults.split or {}).get("challenger", 0.1)
    each = share / len(challengers)
    return {champion: 1.0 - share, **dict.fromkeys(challengers, each)}


def arm_split(split: Mapping[str, float], champion: str, challengers: tuple[str, ...]) -> dict[str, float]:
    """A split as asked for, in arm order. Raises: ValueError unless it gives every arm, and only the arms, a share."""
    arms = (champion, *challengers)
    for name in split:
        if name not in arms:
            raise ValueError(f"split: {name!r} is not an arm of this experiment; {nearest(name, arms)}")
    for arm in arms:
        if not split.get(arm):
            raise ValueError(
                f"split: {arm!r} needs a share above 0 (stop or pause the experiment to take it off traffic)"
            )
    check_split(split)
    return {arm: split[arm] for arm in arms}


def require(experiment: Experiment, action: Action) -> None:
    """Raises: Conflict when the experiment's state does not allow the action, saying which states do."""
    if experiment.state not in _ALLOWED[action]:
        allowed = " or ".join(sorted(_ALLOWED[action]))
        ended = f" with the verdict {experiment.verdict}" if experiment.verdict else ""
        raise Conflict(f"the experiment is {experiment.state}{ended}; {action} needs one that is {allowed}")


def started(experiment: Experiment, level: float | None, now: int) -> Experiment:
    """The experiment running from `now` on, at the promotion level it keeps."""
    return msgspec.structs.replace(experiment, state="running", level=level, started_at=now)


def concluded(experiment: Experiment, verdict: Verdict, reason: str, now: int) -> Experiment:
    """The experiment at its end."""
    return msgspec.structs.replace(experiment, state="concluded", verdict=verdict, reason=reason, concluded_at=now)


def reshared(experiment: Experiment, split: dict[str, float]) -> Experiment:
    """The experiment with a split set by hand: no ramp and no evidence moves it any more. A draft opens with it."""
    settings = msgspec.structs.replace(experiment.settings, ramp=(), allocation="fixed")
    opening = split if experiment.state == "draft" else experiment.split
    return msgspec.structs.replace(experiment, settings=settings, split=opening)
