"""States: what DSPy saves of a program, read strictly.

DSPy's own `load_state` matches fields by position without looking, sets unknown keys as attributes, and opens language
models from what it finds. Nothing is handed to it here: a state is compared with the program's predictors, everything
unknown or missing is refused with a reason, and what remains is instructions and demos.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from pydantic import TypeAdapter

from experiments.errors import Fault, Invalid, nearest
from learning.fields import normal
from learning.values import at, faults_in, refuse

LONGEST_INSTRUCTIONS = 50_000
"""Characters of one predictor's instructions."""
MOST_DEMOS = 200
"""Demos of one predictor."""
LARGEST_STATE = 2 * 2**20
"""Bytes of a whole state as JSON."""

State = dict[str, dict[str, Any]]
"""Predictor name -> `{"instructions": str, "demos": [{field: value}]}`, canonical: equal behaviour, equal JSON."""

_SHORT = ("instructions", "demos")
_SAVED = ("signature", "demos", "traces", "train", "lm", "fields")
_SIGNATURE = ("instructions", "fields")
_OPTIMIZER_MARK = "augmented"
"""Set by DSPy's optimizers on the demos they found; no adapter reads it."""


class Slot(msgspec.Struct, frozen=True, eq=False):
    """One field of a predictor; `role` is input or output, `adapter` None where DSPy takes any value (untyped)."""

    name: str
    role: str
    prefix: str
    description: str
    json_schema: dict[str, Any]
    adapter: TypeAdapter[Any] | None


class Predictor(msgspec.Struct, frozen=True, eq=False):
    """One predictor of a program: its fields in order, inputs first, and what it holds unless a variant says else."""

    name: str
    slots: dict[str, Slot]
    initial: dict[str, Any]


def read_state(state: Any, predictors: Mapping[str, Predictor], pointer: str = "/state") -> State:
    """Every predictor's instructions and demos from a state as DSPy's `save("x.json")` writes it, or in our short form.

    The short form is `{predictor: {"instructions": str, "demos": [...]}}`. A `dspy.Predict` saved by itself is taken
    for a program with one predictor.

    Raises: Invalid with all faults: a state that is torn, of another program, or carries more than it may.
    """
    if not isinstance(state, dict):
        raise Invalid.at(pointer, "must be the JSON object that DSPy saves; pickled programs are never read")
    refuse(faults_in(state, pointer))
    if len(msgspec.json.encode(state)) > LARGEST_STATE:
        raise Invalid.at(pointer, f"is larger than {LARGEST_STATE} bytes")
    named = {name: saved for name, saved in state.items() if name != "metadata"}
    if len(predictors) == 1 and {"signature", "demos"} <= named.keys():
        named = dict.fromkeys(predictors, named)
    refuse(_state_faults(named, predictors, pointer))
    return {name: _canonical(named[name]) for name in predictors}


def instructions_faults(text: Any, pointer: str) -> Iterator[Fault]:
    """Why a text cannot be a predictor's instructions."""
    if not isinstance(text, str) or not text.strip():
        yield Fault(pointer, "must be a text that is not empty")
    elif len(text) > LONGEST_INSTRUCTIONS:
        yield Fault(pointer, f"is longer than {LONGEST_INSTRUCTIONS} characters")


def instructed(state: State, text: str, pointer: str = "/instructions") -> State:
    """The state with other instructions for its only predictor. Raises: Invalid, also when there are several."""
    if len(state) != 1:
        raise Invalid.at(pointer, f"this program has the predictors {', '.join(state)}; give a `state` that names them")
    refuse([*faults_in(text, pointer), *instructions_faults(text, pointer)])
    return {name: {**held, "instructions": _cleaned(text)} for name, held in state.items()}


def _canonical(saved: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a sound predictor state."""
    text = saved["signature"]["instructions"] if "signature" in saved else saved["instructions"]
    demos = [{key: demo[key] for key in demo if key != _OPTIMIZER_MARK} for demo in saved.get("demos", [])]
    return {"instructions": _cleaned(text), "demos": demos}


def _cleaned(text: str) -> str:
    """Instructions as DSPy will say them: it removes indentation on every way in and out, which settles after two."""
    return inspect.cleandoc(inspect.cleandoc(text))


def _state_faults(state: dict[str, Any], predictors: Mapping[str, Predictor], pointer: str) -> Iterator[Fault]:
    for name in state:
        if name not in predictors:
            yield Fault(at(pointer, name), f"is no predictor of this program; {nearest(name[:100], predictors)}")
    for name, predictor in predictors.items():
        where = at(pointer, name)
        if name not in state:
            yield Fault(where, "is missing; every predictor of the program must be there")
        elif not isinstance(state[name], dict):
            yield Fault(where, "must be an object")
        elif "signature" in state[name]:
            yield from _saved_faults(state[name], predictor, where)
        else:
            yield from _key_faults(state[name], _SHORT, ["instructions"], where)
            yield from instructions_faults(state[name].get("instructions"), at(where, "instructions"))
            yield from _demos_faults(state[name].get("demos", []), predictor, at(where, "demos"))


def _saved_faults(saved: dict[str, Any], predictor: Predictor, pointer: str) -> Iterator[Fault]:
    """Faults of one predictor as DSPy saves it. `traces` and `train` are an optimizer's scratch paper and not kept."""
    yield from _key_faults(saved, _SAVED, ["signature", "demos"], pointer)
    for scratch in ("traces", "train"):
        if not isinstance(saved.get(scratch, []), list):
            yield Fault(at(pointer, scratch), "must be an array")
    if saved.get("lm") is not None:
        yield Fault(at(pointer, "lm"), "must be null: a state carries no language model; give it as the variant's `lm`")
    if saved.get("fields"):
        yield Fault(at(pointer, "fields"), "decision criteria are not supported")
    yield from _signature_faults(saved["signature"], predictor, at(pointer, "signature"))
    yield from _demos_faults(saved.get("demos", []), predictor, at(pointer, "demos"))


def _signature_faults(signature: Any, predictor: Predictor, pointer: str) -> Iterator[Fault]:
    if not isinstance(signature, dict):
        yield Fault(pointer, "must be an object")
        return
    yield from _key_faults(signature, _SIGNATURE, _SIGNATURE, pointer)
    yield from instructions_faults(signature.get("instructions"), at(pointer, "instructions"))
    fields, where = signature.get("fields"), at(pointer, "fields")
    if not isinstance(fields, list) or len(fields) != len(predictor.slots):
        names = ", ".join(predictor.slots)
        yield Fault(where, f"must be an array of {len(predictor.slots)} fields, those of {predictor.name}: {names}")
        return
    for place, (field, slot) in enumerate(zip(fields, predictor.slots.values(), strict=True)):
        expected = {"prefix": slot.prefix, "description": slot.description}
        if field != expected:
            yield Fault(
                at(where, place),
                f"is another program's: field {slot.name!r} has prefix {slot.prefix!r} and description "
                f"{slot.description!r:.200}, not {field!r:.300}",
            )


def _demos_faults(demos: Any, predictor: Predictor, pointer: str) -> Iterator[Fault]:
    if not isinstance(demos, list) or len(demos) > MOST_DEMOS:
        yield Fault(pointer, f"must be an array of at most {MOST_DEMOS} demos")
        return
    for place, demo in enumerate(demos):
        where = at(pointer, place)
        if not isinstance(demo, dict) or not demo.keys() & predictor.slots.keys():
            yield Fault(where, f"must be an object with fields of {predictor.name}: {', '.join(predictor.slots)}")
            continue
        yield from _key_faults(demo, [*predictor.slots, _OPTIMIZER_MARK], [], where)
        for name, slot in predictor.slots.items():
            if demo.get(name) is not None and slot.adapter is not None:
                try:
                    normal(slot.adapter, demo[name], at(where, name))
                except Invalid as unfit:
                    yield from unfit.faults


def _key_faults(given: dict[str, Any], known: Iterable[str], needed: Iterable[str], pointer: str) -> Iterator[Fault]:
    for key in given:
        if key not in known:
            yield Fault(at(pointer, key), f"is not known here; {nearest(key[:100], known)}")
    for key in needed:
        if key not in given:
            yield Fault(at(pointer, key), "is missing")
