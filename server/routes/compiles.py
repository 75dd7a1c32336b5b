"""Compile runs: asked for, looked at, followed as they go, cancelled."""

import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, get_args

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.enums import RequestEncodingType
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import BodyKwarg, HeaderParameter, QueryParameter
from litestar.response import Stream

from experiments.errors import Busy, Conflict, Invalid, NotFound, TooLarge, nearest
from learning.compile_runs import RunState
from server.auth import actor
from server.bodies import Strict
from server.loop import requesting
from server.openapi import operation
from server.parameters import Cursor, Limit, PathName
from server.ratchet import Ratchet
from server.store import compiles as store
from server.streams import Message, stream, stream_of
from server.wire import compiles as wire

STATES: tuple[RunState, ...] = get_args(RunState)
EXAMPLES = [
    Example(summary="By the program's `learning:` section", value={}),
    Example(summary="What would it take?", value={"optimizer": "gepa", "budget_usd": "2.50", "dry_run": True}),
]

LastEventId = Annotated[
    str | None,
    HeaderParameter(name="Last-Event-ID", description="The `id` of the last event seen: go on after it."),
]


@post(
    "/v1/programs/{program:str}/compiles",
    tags=["learning"],
    dto=Strict[wire.NewCompile],
    return_dto=None,
    status_code=202,
    **operation(
        "operate",
        NotFound,
        Conflict,
        TooLarge,
        also={
            200: ResponseSpec(wire.DryRun, description="A dry run: what it would take.", generate_examples=False),
            202: ResponseSpec(wire.CompileRun, description="It is asked for; follow it.", generate_examples=False),
        },
    ),
)
async def create_compile(
    ratchet: NamedDependency[Ratchet],
    request: Request[Any, Any, Any],
    program: PathName,
    data: Annotated[wire.NewCompile, BodyKwarg(media_type=RequestEncodingType.JSON, examples=EXAMPLES)],
) -> Response[wire.CompileRun | wire.DryRun]:
    """Recompile a program now, from what was reported about its predictions; or find out what that would take.

    Refused while another run of the program has not ended, and where it could not succeed: the problem names the cure.
    """
    served = ratchet.traffic.program(program)
    budget = requesting.dollars_written(data.budget_usd)
    wish = requesting.Wish(actor=actor(request), optimizer=data.optimizer, budget=budget)
    if data.dry_run:
        expected = await requesting.estimated(ratchet, served, wish)
        return Response(wire.dry_run(expected), status_code=200)
    run = await requesting.asked_for(ratchet, served, wish)
    return Response(wire.compile_run(run), status_code=202, headers={"Location": f"/v1/compiles/{run.compile_id}"})


@get("/v1/compiles", tags=["learning"], **operation("read"))
async def list_compiles(
    ratchet: NamedDependency[Ratchet],
    program: Annotated[str | None, QueryParameter(min_length=1, max_length=256)] = None,
    in_state: Annotated[str | None, QueryParameter(name="state", enum=STATES)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> wire.CompilePage:
    """Every compile run, of one program or in one state if asked."""
    if in_state is not None and in_state not in STATES:
        raise Invalid.at("/query/state", f"{in_state!r} is no state; {nearest(in_state, STATES)}")
    page = await ratchet.store.read(store.runs_page, program=program, state=in_state, limit=limit, cursor=cursor)
    return wire.CompilePage([wire.compile_run(found) for found in page.items], page.next_cursor)


@get("/v1/compiles/{compile_id:str}", tags=["learning"], **operation("read", NotFound))
async def get_compile(ratchet: NamedDependency[Ratchet], compile_id: PathName) -> wire.CompileRun:
    """One run: state, progress, spend, and what the gate said of its candidate."""
    return wire.compile_run(await ratchet.store.read(store.compile_run, compile_id))


@post(
    "/v1/compiles/{compile_id:str}/cancel",
    tags=["learning"],
    status_code=200,
    **operation("operate", NotFound, Conflict),
)
async def cancel_compile(ratchet: NamedDependency[Ratchet], compile_id: PathName) -> wire.CompileRun:
    """End a run. One under way is asked to end, then made to; what it spent is spent. Asking twice is no error."""
    return wire.compile_run(await requesting.cancelled(ratchet, compile_id))


@get(
    "/v1/compiles/{compile_id:str}/events",
    tags=["learning"],
    **operation("read", NotFound, Busy, also={200: stream_of(wire.CompileEvent)}),
)
async def follow_compile(
    ratchet: NamedDependency[Ratchet],
    request: Request[Any, Any, Any],
    compile_id: PathName,
    last_event_id: LastEventId = None,
) -> Stream:
    """Follow a run: what happened so far, then what happens, as server-sent events until it has ended.

    Each carries its number as `id` and its kind as `event`; `Last-Event-ID` goes on after the last one seen. The last
    is called `end` and holds the run. While nothing happens, a comment is sent now and then.
    """
    after = _number(last_event_id)
    await ratchet.store.read(store.compile_run, compile_id)
    return stream(_told(ratchet, compile_id, after), request)


def _number(written: str | None) -> int:
    if written is not None and not re.fullmatch(r"[0-9]{1,9}", written):
        raise Invalid.at("/header/Last-Event-ID", "must be the `id` of an event of this run, a whole number")
    return int(written or 0)


async def _told(ratchet: Ratchet, compile_id: str, after: int) -> AsyncIterator[Message | None]:
    """The events after a number, None whenever there is nothing new, and last of all the run at its end."""
    while True:
        # In this order: whatever happened before the end was seen is told.
        run = await ratchet.store.read(store.compile_run, compile_id)
        found = await ratchet.store.read(store.events_after, compile_id, after)
        for numbered in found:
            after = numbered.number
            told = wire.compile_event(after, numbered.event)
            yield Message(event=told.kind, id=after, data=msgspec.json.encode(told))
        if not found and not run.open:
            yield Message(event="end", data=msgspec.json.encode(wire.compile_run(run)))
            return
        if not found:
            yield None


HANDLERS: list[HTTPRouteHandler] = [create_compile, list_compiles, get_compile, cancel_compile, follow_compile]
