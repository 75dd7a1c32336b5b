"""Answering predictions: validate, make room, route, run, record, answer.

The order is the promise: everything that can be refused is refused before a language model is called, and what was
answered is on disk. Once the model is called the prediction is finished and recorded, whatever its caller does.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

import msgspec

from experiments.assignment import Assignment, route
from experiments.covariates import Covariates, covariate
from experiments.errors import Invalid, LmError, LmFailed, LmTimeout, RatchetError
from experiments.facts import Call, Content, Prediction, shadow_id
from experiments.quantities import SECOND
from learning.programs import check_input
from learning.running import Served
from learning.values import faults_in, refuse
from learning.variants import Variant
from server.clock import new_id
from server.errors import problem
from server.ratchet import Ratchet
from server.serving.idempotency import Held, hold, let_go
from server.serving.outcomes import score_shadow
from server.store.appending import Entry, append, predicted
from server.tracing.context import exemplar, trace_id
from server.tracing.conventions import JOURNAL, PREDICTION
from server.traffic import Program
from server.wire.predictions import Usage
from server.wire.scalars import milliseconds, usd
from server.wire.serving import BatchAnswer, PredictAnswer, PredictRequest, Problem

ABREAST = 32
"""How many items of one batch are worked on at a time."""
T = TypeVar("T")


class Job(msgspec.Struct, frozen=True):
    """One prediction to make. `key` is what is hashed under `randomize: request`, if not the prediction's own id."""

    program: str
    request: PredictRequest
    input: dict[str, Any]
    pinned: Variant | None
    key: str | None


class Made(msgspec.Struct, frozen=True):
    """A finished prediction, not yet recorded. `answer` is None when nobody answered."""

    prediction: Prediction
    content: Content
    answer: PredictAnswer | None


async def predict_once(ratchet: Ratchet, name: str, request: PredictRequest, key: str | None) -> PredictAnswer:
    """One prediction, on disk when this returns.

    Raises: Invalid, NotFound, Busy, Unavailable, KeyReused, Conflict with nothing recorded; LmError with its id.
    """
    program = ratchet.traffic.program(name)
    job = await _job(ratchet, program, request, key)
    return await ratchet.traffic.carry(_once(ratchet, job, program.definition.deadline), ratchet.now())


async def predict_batch(
    ratchet: Ratchet, name: str, items: Sequence[PredictRequest | Invalid], key: str | None
) -> BatchAnswer:
    """An answer or problem for each item, in order; under a key they are recorded together, else each at once.

    Raises: NotFound, Unavailable, KeyReused, Conflict with nothing recorded.
    """
    program = ratchet.traffic.program(name)
    jobs = [await _job_or_error(ratchet, program, item, key and f"{key}/{at}") for at, item in enumerate(items)]
    rounds = -(-len(jobs) // ABREAST)
    patience = program.definition.deadline * rounds
    work = _batch(ratchet, jobs) if key is None else _batch_once(ratchet, name, items, jobs, key, patience)
    return await ratchet.traffic.carry(work, ratchet.now())


async def _job(ratchet: Ratchet, program: Program, request: PredictRequest, key: str | None) -> Job:
    """What is to be done, everything about it checked. Raises: Invalid, NotFound."""
    checked = check_input(program.blueprint, request.input)
    refuse(faults_in(request.metadata, "/metadata"))
    pinned = await _pinned(ratchet, program, request.variant) if request.variant else None
    return Job(program.name, request, checked, pinned, key)


async def _pinned(ratchet: Ratchet, program: Program, name: str) -> Variant:
    variant = await ratchet.traffic.variant(program, name)
    if variant.interface != program.champion.interface:
        raise Invalid.at("/variant", f"{name!r} takes or gives other fields than the program does now")
    return variant


async def _job_or_error(
    ratchet: Ratchet, program: Program, item: PredictRequest | Invalid, key: str | None
) -> Job | RatchetError:
    if isinstance(item, Invalid):
        return item
    try:
        return await _job(ratchet, program, item, key)
    except RatchetError as error:
        return error


async def _once(ratchet: Ratchet, job: Job, deadline: int) -> PredictAnswer:
    """As `_recorded`; a request that came with a key is worked on only once."""
    if job.key is None:
        return await _recorded(ratchet, job, None)
    held = await hold(ratchet, job.program, job.key, job.request, deadline)
    if not isinstance(held, Held):
        return msgspec.json.decode(held, type=PredictAnswer)
    try:
        return await _recorded(ratchet, job, held)
    except BaseException:
        await let_go(ratchet, held)
        raise


async def _recorded(ratchet: Ratchet, job: Job, held: Held | None) -> PredictAnswer:
    with ratchet.store.journal.reserve() as slot:
        made = await _make(ratchet, job)
        completion = held.completion(made.answer) if held and made.answer else None
        with ratchet.tracing.step(JOURNAL, {PREDICTION: made.prediction.prediction_id}):
            await slot.append(made.prediction, made.content, completion)
    _count(ratchet, made)
    return _told(made)


async def _batch(ratchet: Ratchet, jobs: Sequence[Job | RatchetError]) -> BatchAnswer:
    results = await _each(jobs, lambda job: _recorded(ratchet, job, None))
    return BatchAnswer([_or_problem(ratchet, one) for one in results])


async def _batch_once(
    ratchet: Ratchet,
    name: str,
    items: Sequence[PredictRequest | Invalid],
    jobs: Sequence[Job | RatchetError],
    key: str,
    patience: int,
) -> BatchAnswer:
    """As `_batch`, but recorded in one transaction with the answer: a retry after a crash finds all or none."""
    asked = [item if isinstance(item, PredictRequest) else item.detail for item in items]
    held = await hold(ratchet, name, key, asked, patience)
    if not isinstance(held, Held):
        # The earlier answer in its stored form: JSON of the same shape, told apart by nothing but its fields.
        return cast(BatchAnswer, msgspec.json.decode(held))
    try:
        with ratchet.store.journal.reserve(len(jobs)):
            made = await _each(jobs, lambda job: _make(ratchet, job))
            answer = BatchAnswer([_or_problem(ratchet, _answer_of(one)) for one in made])
            entries = [predicted(one.prediction, one.content, None) for one in made if isinstance(one, Made)]
            with ratchet.tracing.step(JOURNAL):
                await ratchet.store.write(append, [*entries, Entry(completion=held.completion(answer))])
    except BaseException:
        await let_go(ratchet, held)
        raise
    for one in made:
        if isinstance(one, Made):
            _count(ratchet, one)
    return answer


async def _each(jobs: Sequence[Job | RatchetError], work: Callable[[Job], Awaitable[T]]) -> list[T | Exception]:
    """Every sound job worked on, some abreast; in the place of what failed stands its error."""
    room = asyncio.Semaphore(ABREAST)

    async def one(job: Job | RatchetError) -> T | Exception:
        if isinstance(job, RatchetError):
            return job
        async with room:
            try:
                return await work(job)
            except Exception as error:  # noqa: BLE001  # what befalls one item, foreseen or not, spares the others
                return error

    return list(await asyncio.gather(*map(one, jobs)))


async def _make(ratchet: Ratchet, job: Job) -> Made:
    """Assign the unit, run the variant, and write down what happened. Raises: Busy before anything is spent."""
    program = ratchet.traffic.program(job.program)
    began, prediction_id = ratchet.now(), new_id()
    unit = _unit(program, job, prediction_id)
    given = Assignment(job.pinned.name, 1.0, None) if job.pinned else route(program.routing, unit)
    if given.shadow:
        ratchet.traffic.begin(_shadow(ratchet, program, job, given, prediction_id, unit, began), began)
    trail = ratchet.tracing.trail()
    served = await ratchet.runner.answer(
        job.pinned or program.variants[given.variant],
        None if job.pinned else program.champion,
        program.definition,
        job.input,
        trail=trail,
    )
    now = ratchet.now()
    ratchet.traffic.refuse_if_late(began, program.definition.deadline, now)
    prediction = _prediction(
        program,
        given,
        served,
        known=_known(program, job) if given.experiment_id else {},
        prediction_id=prediction_id,
        unit_hash=ratchet.traffic.unit_hash(unit),
        began=began,
        now=now,
    )
    ratchet.tracing.predicted(prediction, trail)
    return Made(prediction, _content(prediction_id, job, served), _answer(prediction, served))


async def _shadow(
    ratchet: Ratchet, program: Program, job: Job, given: Assignment, served_id: str, unit: str, began: int
) -> None:
    """The challenger's answer to a request that the champion serves. Nobody waits for it, and nothing fails with it.

    It is recorded by itself. Where there is no room for it, or the process dies, the pair is missing in both arms.
    """
    assigned = Assignment(given.shadow or "", 1.0, given.experiment_id)
    try:
        with ratchet.store.journal.reserve() as slot:
            trail = ratchet.tracing.trail()
            served = await ratchet.runner.answer(
                program.variants[assigned.variant], None, program.definition, job.input, trail=trail
            )
            now = ratchet.now()
            ratchet.traffic.refuse_if_late(began, program.definition.deadline, now)
            prediction = _prediction(
                program,
                assigned,
                served,
                known={},
                prediction_id=shadow_id(served_id),
                unit_hash=ratchet.traffic.unit_hash(unit),
                began=began,
                now=now,
            )
            ratchet.tracing.predicted(prediction, trail)
            await slot.append(prediction, _content(prediction.prediction_id, job, served))
        ratchet.metrics.predicted(prediction)
        await score_shadow(ratchet, served_id)
    except RatchetError as error:
        ratchet.log.warning("shadow_lost", prediction=served_id, detail=error.detail)


def _known(program: Program, job: Job) -> Covariates:
    """The covariates that the experiment asked for and the caller sent, as far as they can be used."""
    sent = ((name, job.request.metadata.get(name)) for name in program.routing.covariates)
    return {name: value for name, raw in sent if (value := covariate(raw)) is not None}


def _prediction(
    program: Program,
    given: Assignment,
    served: Served,
    *,
    known: Covariates,
    prediction_id: str,
    unit_hash: str,
    began: int,
    now: int,
) -> Prediction:
    assigned = [call for call in served.calls if call.variant == given.variant]
    return Prediction(
        prediction_id=prediction_id,
        program=program.name,
        experiment_id=given.experiment_id,
        epoch=program.routing.epoch,
        unit_hash=unit_hash,
        assigned_variant=given.variant,
        variant=served.variant,
        propensity=given.propensity,
        status=served.status,
        error=served.error,
        latency=served.latency,
        input_tokens=sum(call.input_tokens for call in served.calls),
        output_tokens=sum(call.output_tokens for call in served.calls),
        cost=_cost(served.calls, answered=served.status == "ok"),
        assigned_cost=_cost(assigned, answered=served.status == "ok"),
        assigned_tokens=_tokens(assigned, answered=served.status == "ok"),
        calls=served.calls,
        created_at=began,
        answered_at=now,
        covariates=dict(known),
        trace_id=trace_id(),
    )


def _unit(program: Program, job: Job, prediction_id: str) -> str:
    """What is randomised: the unit, or the request by its key or else by itself."""
    if program.routing.live and program.routing.randomize == "request":
        return job.key or prediction_id
    return job.request.unit or prediction_id


def _cost(calls: Sequence[Call], *, answered: bool) -> int | None:
    """Picodollars of all calls; None when one has no price, or was cut short so that nobody knows what it cost."""
    costs = [call.cost for call in calls if call.cost is not None]
    return sum(costs) if len(costs) == len(calls) and (calls or answered) else None


def _tokens(calls: Sequence[Call], *, answered: bool) -> int | None:
    """Tokens in and out of all calls; None when one was not metered (no call is made of none), or was cut short."""
    counts = [call.input_tokens + call.output_tokens for call in calls]
    return sum(counts) if all(counts) and (calls or answered) else None


def _content(prediction_id: str, job: Job, served: Served) -> Content:
    return Content(
        prediction_id=prediction_id,
        unit=job.request.unit,
        input=job.input,
        output=served.output,
        error_detail=served.error_detail,
        metadata=job.request.metadata,
    )


def _answer(prediction: Prediction, served: Served) -> PredictAnswer | None:
    if served.output is None or served.variant is None:
        return None
    return PredictAnswer(
        prediction_id=prediction.prediction_id,
        program=prediction.program,
        variant=served.variant,
        assigned_variant=prediction.assigned_variant,
        experiment_id=prediction.experiment_id,
        propensity=prediction.propensity,
        output=served.output,
        fallback=prediction.status == "fallback",
        usage=Usage(prediction.input_tokens, prediction.output_tokens),
        cost_usd=usd(prediction.cost),
        latency_ms=milliseconds(prediction.latency),
    )


def _told(made: Made) -> PredictAnswer:
    """The answer of a recorded prediction. Raises: LmTimeout, LmFailed."""
    if made.answer is not None:
        return made.answer
    prediction = made.prediction
    kind = LmTimeout if prediction.error == "lm-timeout" else LmFailed
    detail = made.content.error_detail or "the language model gave no answer"
    raise kind(f"variant {prediction.assigned_variant!r}: {detail}", prediction_id=prediction.prediction_id)


def _answer_of(made: Made | Exception) -> PredictAnswer | Exception:
    try:
        return _told(made) if isinstance(made, Made) else made
    except LmError as error:
        return error


def _or_problem(ratchet: Ratchet, answer: PredictAnswer | Exception) -> PredictAnswer | Problem:
    if isinstance(answer, PredictAnswer):
        return answer
    if not isinstance(answer, RatchetError):
        ratchet.log.error("prediction_crashed", exc_info=answer)
    return problem(answer)


def _count(ratchet: Ratchet, made: Made) -> None:
    prediction = made.prediction
    ratchet.metrics.predicted(prediction, exemplar())
    if prediction.status == "ok":
        spent = ratchet.now() - prediction.created_at - sum(call.latency for call in prediction.calls)
        ratchet.metrics.overhead.labels(prediction.program).observe(max(0, spent) / SECOND)
