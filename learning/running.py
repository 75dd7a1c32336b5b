"""Running programs: one answer, in time, with the champion behind it and every LM call on the bill.

Whatever goes wrong with a language model or inside an operator's own module is an answer too: a failure with a reason,
charged to the variant that was assigned. Only a lack of room is raised, and only while nothing has been spent.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Literal

import dspy
import msgspec
from dspy.utils.exceptions import AdapterParseError

from experiments.errors import Busy, Invalid, LmError, LmFailed, LmTimeout
from experiments.facts import Call, Status
from experiments.quantities import SECOND
from learning.adapters import PlainAdapter, only_output
from learning.definitions import LmSettings, ProgramDefinition
from learning.lms import Lm, metering, open_lm
from learning.modules import said
from learning.programs import Blueprint, Program, open_program
from learning.trails import Trail, Try
from learning.variants import Variant, lm_in_force

CHALLENGER_SHARE = 0.7
"""Of the deadline; the rest is kept for the champion's answer."""
_THREADS = 64
"""For programs that are synchronous: each one that is answering occupies a thread, more of them wait."""


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one prediction. `variant` is the name of the one that answered, None when none did.

    Unless the status is ok, `error` and `error_detail` tell why the assigned variant did not answer; the detail goes on
    with the champion where that failed too. `calls` are all LM calls in order, `latency` is in µs, both over all tries.
    """

    variant: str | None
    output: dict[str, Any] | None
    status: Status
    error: Literal["lm-failed", "lm-timeout"] | None
    error_detail: str | None
    calls: tuple[Call, ...]
    latency: int


class _Ready(msgspec.Struct, frozen=True, eq=False):
    """A variant as a definition runs it."""

    definition: ProgramDefinition
    program: Program
    lm: Lm


class Runner:
    """Holds one module per variant and one LM per distinct settings; belongs to one event loop."""

    def __init__(self, open_lm: Callable[[LmSettings], Lm] = open_lm) -> None:
        self._open_lm = open_lm
        self._ready: dict[str, _Ready] = {}
        self._lms: dict[bytes, Lm] = {}

    def prepare(self, variant: Variant, definition: ProgramDefinition) -> Blueprint:
        """What the variant takes and gives, having made it ready to answer.

        The first time in a process this imports and builds the module, which takes milliseconds, or as long as an
        operator's imports do, and may be done in a thread. From then on it is a look-up.

        Raises: Invalid when the variant or its LM cannot be opened here.
        """
        return self._prepared(variant, definition).program.blueprint

    async def answer(
        self,
        assigned: Variant,
        champion: Variant | None,
        definition: ProgramDefinition,
        input: dict[str, Any],  # noqa: A002  # the contract's word
        *,
        remaining: int | None = None,
        trail: Trail | None = None,
    ) -> Served:
        """The answer of the assigned variant to a checked input, or of the champion in its place.

        Without `champion` there is no fallback (a pinned variant), nor under `fallback: error`, nor where champion and
        assigned are the same. `remaining` is what is left of the deadline in µs, all of it by default; with a fallback
        behind it the assigned variant may use 0.7 of that. An assigned variant whose LM has no room is passed over. A
        `trail` is told how it went.

        Raises: Busy when there is no room, before anything is spent.
        """
        started = time.perf_counter_ns()
        deadline = (definition.deadline if remaining is None else remaining) / SECOND
        tries = [(assigned, 1.0)]
        if champion is not None and champion.id != assigned.id and definition.fallback == "champion":
            tries = [(assigned, CHALLENGER_SHARE), (champion, 1.0)]
        calls: list[Call] = []
        failures: list[LmError | Busy] = []
        for variant, share in tries:
            seconds = deadline * share - (time.perf_counter_ns() - started) / 1e9
            step = None if trail is None else trail.begin(variant.name, time.perf_counter_ns())
            output = await self._attempt(variant, definition, input, calls, seconds, step)
            if step is not None:
                step.end(time.perf_counter_ns(), None if isinstance(output, dict) else _kind(output))
            if isinstance(output, dict):
                return _served(started, calls, variant, output, failures)
            failures.append(output)
        if isinstance(failures[-1], Busy) and all(isinstance(failure, Busy) for failure in failures):
            raise failures[-1]
        return _served(started, calls, None, None, failures)

    async def aclose(self) -> None:
        """Closes every LM; to be called on the loop that used them, when no answer is under way."""
        for lm in self._lms.values():
            await lm.aclose()

    def _prepared(self, variant: Variant, definition: ProgramDefinition) -> _Ready:
        ready = self._ready.get(variant.id)
        if ready is None or ready.definition is not definition:
            program = open_program(variant) if ready is None else ready.program
            lm = self._lm(lm_in_force(variant, definition))
            if isinstance(lm.adapter, PlainAdapter):
                for predictor in program.module.predictors():
                    only_output(predictor.signature)
            ready = self._ready[variant.id] = _Ready(definition, program, lm)
        return ready

    def _lm(self, settings: LmSettings) -> Lm:
        key = msgspec.json.encode(settings, order="sorted")
        return self._lms.get(key) or self._lms.setdefault(key, self._open_lm(settings))

    async def _attempt(
        self,
        variant: Variant,
        definition: ProgramDefinition,
        given: dict[str, Any],
        calls: list[Call],
        seconds: float,
        step: Try | None,
    ) -> dict[str, Any] | LmError | Busy:
        """One variant's output within `seconds`, or why there is none; its LM calls are appended to `calls`."""
        try:
            ready = self._prepared(variant, definition)
            with (
                ready.lm.slots.taken(),
                metering(variant.name, calls, step),
                # Without a trace, in which DSPy would keep the inputs and outputs of the last 10,000 calls, and without
                # its warning about types, which writes the values themselves to standard error.
                dspy.context(
                    lm=ready.lm.model,
                    adapter=ready.lm.adapter,
                    trace=None,
                    async_max_workers=_THREADS,
                    warn_on_type_mismatch=False,
                ),
            ):
                return await _output(ready.program, given, seconds)
        except Busy as full:
            return full
        except Invalid as error:
            return LmFailed(f"variant {variant.name!r} cannot be opened here: {error.detail}")


async def _output(program: Program, given: dict[str, Any], seconds: float) -> dict[str, Any] | LmError:
    fields = program.blueprint.input_fields
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            answer = await program.call(**{name: fields[name].read(value) for name, value in given.items()})
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) and task.cancelling():
            raise
        return LmFailed("the program cancelled itself")
    except (Exception, SystemExit) as error:  # noqa: BLE001  # an operator's own code may raise anything
        return _late(seconds) if limit.expired() else _failure(error)
    return _late(seconds) if limit.expired() else shown(program.blueprint, answer)


def shown(plan: Blueprint, answer: Any) -> dict[str, Any] | LmError:
    """The output fields of an answer as JSON values; whatever else the program returned is left out."""
    if not isinstance(answer, (dict, dspy.Prediction)):
        return LmFailed(f"the program returned a {type(answer).__name__}, not a dspy.Prediction")
    output = {}
    for name, field in plan.output_fields.items():
        if name not in answer and field.required:
            return LmFailed(f"unreadable answer: {name!r} is missing")
        try:
            output[name] = field.show(answer[name]) if name in answer else field.default
        except (ValueError, RecursionError) as error:
            return LmFailed(f"unreadable answer: {name!r}: {said(error)}")
    return output


def _kind(failure: LmError | Busy) -> str:
    return "lm-timeout" if isinstance(failure, LmTimeout) else "busy" if isinstance(failure, Busy) else "lm-failed"


def _late(seconds: float) -> LmTimeout:
    return LmTimeout(f"no answer within {max(0.0, seconds):.3g} s")


def _failure(error: BaseException) -> LmError:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, AdapterParseError):
        return LmFailed(f"unreadable answer: {error.lm_response!r:.500}")
    return (LmTimeout if isinstance(error, dspy.LMTimeoutError) else LmFailed)(said(error))


def _served(
    started: int,
    calls: list[Call],
    variant: Variant | None,
    output: dict[str, Any] | None,
    failures: list[LmError | Busy],
) -> Served:
    timed_out = bool(failures) and isinstance(failures[0], LmTimeout)
    return Served(
        variant=variant.name if variant else None,
        output=output,
        status="error" if variant is None else "fallback" if failures else "ok",
        error=("lm-timeout" if timed_out else "lm-failed") if failures else None,
        error_detail="; then the champion: ".join(failure.detail for failure in failures) or None,
        calls=tuple(calls),
        latency=(time.perf_counter_ns() - started) // 1000,
    )
