"""A compile run before it is one: what it would be made of, what it would take, and why it may have to be refused.

Everything is looked at before anything is spent. A refusal names what is missing, in numbers, and the cure.
"""

import asyncio
import hashlib
from typing import Any

import msgspec

from experiments.errors import Conflict, Invalid, Stale
from experiments.metrics import Metric
from experiments.quantities import dollars, duration, money
from learning.compile_runs import Budget, CompileRun, Dataset, Job, Optimizer
from learning.compiling.estimates import (
    NEEDS_OPTUNA,
    Estimate,
    choose,
    default_metric_calls,
    expected,
    installed,
    min_metric_calls,
    refusal,
)
from learning.cycle import Compile, Situation, plan
from learning.definitions import LearningOptions
from learning.feedback.datasets import build
from learning.feedback.quality import Quality
from learning.feedback.scoring import rescorable
from learning.variants import Variant, lm_in_force
from server.clock import new_id
from server.loop.situations import situation_of
from server.ratchet import Ratchet
from server.store import Connection
from server.store.analytics import tokens_per_prediction
from server.store.compiles import insert_run, request_cancel
from server.store.definitions import stored_program, stored_variant
from server.store.examples import examples_since
from server.store.routings import routing_in_force
from server.traffic import Program

_SUPPOSED = (400.0, 40.0)
"""Input and output tokens of a call of a champion that never answered."""


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator wants of a run: None leaves it to the definition. `budget` in picodollars."""

    actor: str | None = None
    optimizer: str | None = None
    budget: int | None = None


class Preparation(msgspec.Struct, frozen=True, kw_only=True):
    """All that a run would be made of."""

    program: Program
    champion: Variant
    dataset: Dataset
    quality: Quality
    optimizer: Optimizer
    budget: Budget
    tokens: tuple[float, float]

    @property
    def estimate(self) -> Estimate:
        """What it would take."""
        return self._expected(self.budget)

    @property
    def least(self) -> Estimate:
        """What it takes to find anything at all."""
        calls = min_metric_calls(self.optimizer, len(self.dataset.val))
        return self._expected(msgspec.structs.replace(self.budget, metric_calls=calls))

    def _expected(self, budget: Budget) -> Estimate:
        return expected(
            definition=self.program.definition,
            champion=self.champion,
            val=len(self.dataset.val),
            holdout=len(self.dataset.holdout),
            optimizer=self.optimizer,
            budget=budget,
            tokens=self.tokens,
        )


def dollars_written(written: str | float | None) -> int | None:
    """A budget as a caller writes it, in picodollars. Raises: Invalid at /budget_usd."""
    if written is None:
        return None
    try:
        amount = money(written)
    except ValueError as error:
        raise Invalid.at("/budget_usd", str(error)) from None
    if not amount:
        raise Invalid.at("/budget_usd", "must be above 0")
    return amount


async def estimated(ratchet: Ratchet, program: Program, wish: Wish) -> Estimate:
    """What a run would take. Raises: Conflict, Invalid where none could be."""
    situation = await _situation(ratchet, program)
    since = situation.alarm.since if situation.alarm else None
    options = _options(program, wish)
    return (await prepared(ratchet, program, options, since, options.budget)).estimate


async def asked_for(ratchet: Ratchet, program: Program, wish: Wish) -> CompileRun:
    """The run that an operator asks for, queued. Raises: Conflict, Invalid where something is in its way."""
    options = _options(program, wish)
    planned = plan(await _situation(ratchet, program), options, ratchet.now())
    if not isinstance(planned, Compile):
        why = planned.reason.removeprefix("waiting: ").removesuffix(" (asked for by an operator)")
        raise Conflict(f"program {program.name!r} cannot be compiled now: {why}")
    return await begin(ratchet, program, options, planned, wish.actor)


async def _situation(ratchet: Ratchet, program: Program) -> Situation:
    return await ratchet.store.read(situation_of, program.name, program.definition, ratchet.now(), requested=True)


def _options(program: Program, wish: Wish) -> LearningOptions:
    options = program.definition.learning
    if wish.optimizer == "mipro" and "mipro" not in installed():
        raise Invalid.at("/optimizer", NEEDS_OPTUNA)
    return msgspec.structs.replace(
        options,
        optimizer=wish.optimizer or options.optimizer,
        budget_usd=options.budget_usd if wish.budget is None else dollars(wish.budget),
    )


async def begin(
    ratchet: Ratchet, program: Program, options: LearningOptions, planned: Compile, actor: str | None = None
) -> CompileRun:
    """The run that is planned, queued. Raises: Conflict, Invalid where it could not succeed, or another has begun."""
    ready = await prepared(ratchet, program, options, planned.since, planned.cost)
    run = CompileRun(
        compile_id=new_id(),
        program=program.name,
        state="queued",
        reason=planned.trigger,
        optimizer=ready.optimizer,
        champion=ready.champion.name,
        actor=actor,
        alarm=planned.alarm,
        since=planned.since,
        budget=ready.budget,
        created_at=ratchet.now(),
        **_data_of(ready.dataset, ready.quality),
    )
    if why := _unaffordable(ready, job(run, program, ready.champion, ready.dataset)):
        raise Conflict(why)
    await ratchet.store.write(_queue, run, program, options)
    ratchet.log.info(
        "compile_asked_for", program=program.name, compile_id=run.compile_id, reason=planned.reason, actor=actor
    )
    return run


def _queue(conn: Connection, run: CompileRun, program: Program, options: LearningOptions) -> None:
    """Queue a run, unless what it was planned by has changed since: to read all feedback takes a while.

    Raises: Conflict for an operator, and when another run is open; Stale for the loop, which looks again by itself.
    """
    if why := _changed(conn, run, program, options):
        refused = Conflict if run.reason == "operator" else Stale
        raise refused(f"program {run.program!r} cannot be compiled now: {why}")
    insert_run(conn, run)


def _changed(conn: Connection, run: CompileRun, program: Program, options: LearningOptions) -> str | None:
    """What is not any more as it was when the run was planned."""
    routing = routing_in_force(conn, run.program)
    if stored_program(conn, run.program).definition != program.definition:
        return "its definition was changed a moment ago; ask again"
    if routing is None or routing.champion != run.champion:
        return f"{run.champion!r} is not its champion any more; ask again"
    found = situation_of(conn, run.program, program.definition, run.created_at, requested=True)
    if run.reason != "operator" and found.frozen:
        return "every automatic act is frozen"
    if run.reason == "drift" and (found.alarm is None or found.alarm.at != run.alarm or not found.alarm.asks):
        return "its alarm was closed, or answered by another run"
    planned = plan(found, options, run.created_at)
    if found.running is not None or isinstance(planned, Compile):
        return None
    return planned.reason


async def cancelled(ratchet: Ratchet, compile_id: str) -> CompileRun:
    """The run, asked to end. Raises: NotFound; Conflict when it has ended."""
    run = await ratchet.store.write(request_cancel, compile_id, ratchet.now())
    ratchet.log.info("compile_cancelled", compile_id=compile_id, program=run.program)
    return run


class NotLoaded(Conflict):
    """A program cannot be loaded in its present form."""


def loaded(ratchet: Ratchet, name: str) -> Program:
    """The program as it is defined now. Raises: NotFound; NotLoaded, which may pass once its module is there."""
    if (reason := ratchet.traffic.broken.get(name)) is not None:
        raise NotLoaded(f"program {name!r} cannot be loaded as it is defined now: {reason}")
    return ratchet.traffic.program(name)


async def prepared(
    ratchet: Ratchet, program: Program, options: LearningOptions, since: int | None, cost: int | None
) -> Preparation:
    """Everything of a run but the run, from feedback on predictions of `since` (µs) on, for `cost` at most.

    Raises: Conflict where none could succeed; Invalid for an optimizer that is not there.
    """
    loaded(ratchet, program.name)
    dataset, quality = await _data(ratchet, program, since)
    champion = program.champion
    shown = dataset.train + dataset.val
    optimizer, _ = choose(
        options.optimizer,
        examples=len(shown),
        share_with_feedback=sum(bool(example.feedback) for example in shown) / len(shown),
        predictors=len(champion.state),
        installed=installed(),
    )
    calls = options.max_metric_calls or default_metric_calls(optimizer, len(dataset.val), len(champion.state))
    return Preparation(
        program=program,
        champion=champion,
        dataset=dataset,
        quality=quality,
        optimizer=optimizer,
        budget=Budget(cost=cost, metric_calls=calls, time=duration(options.max_duration)),
        tokens=await _tokens(ratchet, program),
    )


async def _tokens(ratchet: Ratchet, program: Program) -> tuple[float, float]:
    """Mean input and output tokens of one call of the champion."""
    champion = program.champion
    found = await ratchet.store.read(tokens_per_prediction, program.name, champion.name)
    return (found[0] / len(champion.state), found[1] / len(champion.state)) if found else _SUPPOSED


def _goal(program: Program) -> Metric:
    """Raises: Conflict unless fresh answers can be scored by the program's goal."""
    name = program.definition.goal
    goal = program.definition.metrics[name] if name else None
    if (why := rescorable(goal)) or goal is None:
        raise Conflict(f"program {program.name!r} cannot be compiled: {why}")
    return goal


async def _data(ratchet: Ratchet, program: Program, since: int | None) -> tuple[Dataset, Quality]:
    """Raises: Conflict when there is too little to learn from."""
    goal, name = _goal(program), program.definition.goal or ""
    examples = await ratchet.store.read(examples_since, program.name, name, goal, since or 0)
    dataset, quality = await asyncio.to_thread(build, examples, program=program.name, goal=goal, since=since)
    if dataset is None:
        raise Conflict(f"program {program.name!r} cannot be compiled yet: {quality.refusal}")
    return dataset, quality


def _unaffordable(ready: Preparation, job: Job) -> str | None:
    """Why its budget is too small, with the number needed, or cannot be kept."""
    definition = ready.program.definition
    student = lm_in_force(ready.champion, definition)
    if why := refusal(job, student, definition.learning.reflection_settings or student):
        return why
    needed = ready.least.cost
    if ready.budget.cost is None or needed is None or ready.budget.cost >= needed:
        return None
    return (
        f"a budget of ${dollars(ready.budget.cost)} is too small to find anything: at least about ${dollars(needed)} "
        "is needed (--dry-run shows what to expect)"
    )


def job(run: CompileRun, program: Program, champion: Variant, dataset: Dataset) -> Job:
    """What the child is given."""
    definition = program.definition
    return Job(
        compile_id=run.compile_id,
        program=run.program,
        definition=definition,
        champion=champion,
        goal=_goal(program),
        dataset=dataset,
        optimizer=run.optimizer,
        component=definition.learning.component,
        reflection_lm=definition.learning.reflection_settings,
        budget=run.budget,
        seed=int.from_bytes(hashlib.blake2b(run.compile_id.encode(), digest_size=4).digest()),
        spent=run.spent,
    )


async def job_of(ratchet: Ratchet, run: CompileRun) -> tuple[Job, CompileRun]:
    """What the child is given for a run that was asked for, by what is known now, and the run with what that is.

    Raises: NotFound, Conflict when the program, its champion or the data are not there any more; NotLoaded.
    """
    program = loaded(ratchet, run.program)
    if program.routing.champion != run.champion:
        raise Conflict(f"{program.routing.champion!r} took the place of the champion {run.champion!r} before it began")
    champion = await ratchet.store.read(stored_variant, run.program, run.champion)
    dataset, quality = await _data(ratchet, program, run.since)
    now_known = msgspec.structs.replace(run, **_data_of(dataset, quality))
    return job(now_known, program, champion, dataset), now_known


def _data_of(dataset: Dataset, quality: Quality) -> dict[str, Any]:
    parts = {name: len(getattr(dataset, name)) for name in ("train", "val", "holdout")}
    return {"dataset_digest": dataset.digest, "examples": parts, "quality": msgspec.to_builtins(quality)}
