"""Experiments: drafted, acted on, and looked at."""

from typing import Annotated, Any, get_args

from litestar import Request, Response, get, patch, post
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from litestar.enums import RequestEncodingType
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import Example
from litestar.params import BodyKwarg, JSONBody, QueryParameter

from experiments.errors import Conflict, Invalid, NotFound, Stale, TooLarge, Unavailable, nearest
from experiments.experiment import Experiment, State
from experiments.life import Action, NewExperiment
from server.auth import actor
from server.bodies import Strict
from server.openapi import operation
from server.parameters import ETAG, Cursor, IfMatch, Limit, PathName, tagged, version, version_tag
from server.ratchet import Ratchet
from server.store import experiments as store
from server.trials import lifecycle
from server.trials.planning import NewPlan, planned
from server.wire import experiments as wire
from server.wire import plans, reports

STATES: tuple[State, ...] = get_args(State)
LOCATION = ResponseHeader(name="Location", documentation_only=True, description="Where it is from now on.")
EXAMPLES = [
    Example(
        summary="A challenger on a tenth of the users",
        value={
            "program": "triage",
            "challengers": ["terse"],
            "split": {"base": 0.9, "terse": 0.1},
            "min_effect": 0.03,
            "outcome_window": "24h",
        },
    ),
    Example(summary="An A/A test of the set-up itself", value={"program": "triage", "aa": True}),
]
PLANS = [
    Example(
        summary="A challenger yet to be made, at 2,000 users a day",
        value={"program": "triage", "min_effect": 0.03, "units_per_day": 2000, "baseline": {"correct": 0.8}},
    ),
]
ACTS: dict[Action, str] = {
    "start": "Put the split in force and begin to gather evidence. A program has at most one experiment running.",
    "pause": "Send all traffic to the champion. Every assignment is kept for the resume.",
    "resume": "Put the split back in force: every unit meets the variant it met before.",
    "stop": "End the experiment without a winner; the verdict is `stopped`.",
    "promote": "Make a challenger the champion, by hand. `variant` names it where there are several.",
    "rollback": "Take back the program's latest promotion, which must be this experiment's; the verdict stays.",
}


@get("/v1/experiments", tags=["experiments"], **operation("read"))
async def list_experiments(
    ratchet: NamedDependency[Ratchet],
    program: Annotated[str | None, QueryParameter(min_length=1, max_length=256)] = None,
    in_state: Annotated[str | None, QueryParameter(name="state", enum=STATES)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> wire.ExperimentPage:
    """Every experiment, of one program or in one state if asked."""
    if in_state is not None and in_state not in STATES:
        raise Invalid.at("/query/state", f"{in_state!r} is no state; {nearest(in_state, STATES)}")
    page = await ratchet.store.read(store.experiments_page, program=program, state=in_state, limit=limit, cursor=cursor)
    return wire.ExperimentPage([_on_wire(ratchet, found) for found in page.items], page.next_cursor)


@post(
    "/v1/experiments",
    tags=["experiments"],
    dto=Strict[NewExperiment],
    return_dto=None,
    response_headers=[ETAG, LOCATION],
    **operation("operate", Conflict, TooLarge),
)
async def create_experiment(
    ratchet: NamedDependency[Ratchet],
    data: Annotated[NewExperiment, BodyKwarg(media_type=RequestEncodingType.JSON, examples=EXAMPLES)],
) -> Response[wire.Experiment]:
    """Draft an experiment; `start` begins it. What is left out comes from the program's definition."""
    found = await lifecycle.create(ratchet, data)
    answer = _tagged(ratchet, found, status=201)
    answer.headers["Location"] = f"/v1/experiments/{found.experiment_id}"
    return answer


@post(
    "/v1/experiments/plan",
    tags=["experiments"],
    dto=Strict[NewPlan],
    return_dto=None,
    status_code=200,
    **operation("read", TooLarge),
)
async def plan_experiment(
    ratchet: NamedDependency[Ratchet],
    data: Annotated[NewPlan, BodyKwarg(media_type=RequestEncodingType.JSON, examples=PLANS)],
) -> plans.Plan:
    """Simulate an experiment before it is created: units and days it takes, what it can find, how it may end."""
    found = await planned(ratchet, data)
    return plans.plan(found.experiment, found.assumed, found.plan)


@get(
    "/v1/experiments/{experiment_id:str}", tags=["experiments"], response_headers=[ETAG], **operation("read", NotFound)
)
async def get_experiment(ratchet: NamedDependency[Ratchet], experiment_id: PathName) -> Response[wire.Experiment]:
    """One experiment: arms, shares in force, settings, state, verdict."""
    return _tagged(ratchet, await ratchet.store.read(store.experiment, experiment_id))


@patch(
    "/v1/experiments/{experiment_id:str}",
    tags=["experiments"],
    dto=Strict[wire.Reshare],
    return_dto=None,
    response_headers=[ETAG],
    **operation("operate", NotFound, Conflict, Stale, TooLarge),
)
async def reshare_experiment(
    ratchet: NamedDependency[Ratchet],
    request: Request[Any, Any, Any],
    experiment_id: PathName,
    data: JSONBody[wire.Reshare],
    if_match: IfMatch = None,
) -> Response[wire.Experiment]:
    """Change the split by hand: a new epoch. It turns a ramp off and moves no unit that can stay where it is."""
    found = await lifecycle.reshare(
        ratchet,
        experiment_id,
        data.split,
        reason=data.reason or "the split was changed by hand",
        actor=actor(request),
        version=version(if_match),
    )
    return _tagged(ratchet, found)


@get("/v1/experiments/{experiment_id:str}/report", tags=["experiments"], **operation("read", NotFound))
async def get_report(ratchet: NamedDependency[Ratchet], experiment_id: PathName) -> reports.Report:
    """Where an experiment stands now: arms, comparisons, validity, level, and the recommended action."""
    return reports.report(await lifecycle.report(ratchet, experiment_id))


@get("/v1/experiments/{experiment_id:str}/series", tags=["experiments"], **operation("read", NotFound))
async def get_series(ratchet: NamedDependency[Ratchet], experiment_id: PathName) -> reports.Series:
    """What the report plots over time, oldest first."""
    return reports.series(await lifecycle.series(ratchet, experiment_id))


@get("/v1/experiments/{experiment_id:str}/decisions", tags=["experiments"], **operation("read", NotFound))
async def list_decisions(
    ratchet: NamedDependency[Ratchet], experiment_id: PathName, limit: Limit = 50, cursor: Cursor = None
) -> wire.DecisionPage:
    """Every decision about an experiment, each with the evidence it was drawn from."""
    await ratchet.store.read(store.experiment, experiment_id)
    page = await ratchet.store.read(store.decisions_page, experiment_id, limit=limit, cursor=cursor)
    return wire.DecisionPage([wire.decision(made) for made in page.items], page.next_cursor)


def _act(action: Action, said: str) -> HTTPRouteHandler:
    @post(
        f"/v1/experiments/{{experiment_id:str}}/{action}",
        tags=["experiments"],
        operation_id=f"{action}_experiment",
        description=said,
        status_code=200,
        dto=Strict[wire.Act],
        return_dto=None,
        response_headers=[ETAG],
        **operation("operate", NotFound, Conflict, Stale, TooLarge),
    )
    async def act(
        ratchet: NamedDependency[Ratchet],
        request: Request[Any, Any, Any],
        experiment_id: PathName,
        data: JSONBody[wire.Act],
        if_match: IfMatch = None,
    ) -> Response[wire.Experiment]:
        found = await lifecycle.act(
            ratchet,
            experiment_id,
            action,
            reason=data.reason,
            actor=actor(request),
            variant=data.variant,
            version=version(if_match),
        )
        return _tagged(ratchet, found)

    return act


def _tagged(ratchet: Ratchet, found: Experiment, status: int = 200) -> Response[wire.Experiment]:
    return tagged(_on_wire(ratchet, found), version_tag(found.version), status)


def _on_wire(ratchet: Ratchet, found: Experiment) -> wire.Experiment:
    try:
        routing = ratchet.traffic.program(found.program).routing
    except (NotFound, Unavailable):  # its program is defined no longer, or cannot be loaded: nothing is routed
        routing = None
    return wire.experiment(found, routing)


HANDLERS: list[HTTPRouteHandler] = [
    list_experiments,
    create_experiment,
    plan_experiment,
    get_experiment,
    reshare_experiment,
    get_report,
    get_series,
    list_decisions,
    *(_act(action, said) for action, said in ACTS.items()),
]
