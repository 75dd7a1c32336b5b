"""Programs: what a definition or a variant takes, gives and is made of, and the variants made from it."""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import dspy
import msgspec
from dspy.utils.constants import IS_TYPE_UNDEFINED
from pydantic.fields import FieldInfo

from experiments.errors import Invalid
from experiments.life import twin_name
from learning.definitions import NAME, LmSettings, ProgramDefinition
from learning.fields import Field, check, json_type
from learning.modules import build, callable_of, outer_signature
from learning.states import Predictor, Slot, State, instructed, read_state
from learning.values import faults_in, refuse
from learning.variants import Origin, Variant, check_storable, content_id, digest


class Blueprint(msgspec.Struct, frozen=True, eq=False):
    """What a program takes, gives and is made of. `fingerprint` as in `Variant`."""

    input_fields: dict[str, Field]
    output_fields: dict[str, Field]
    fingerprint: str
    predictors: dict[str, Predictor]


class Program(msgspec.Struct, frozen=True, eq=False):
    """A program ready to be called, inside an LM's context, with its input fields as keyword arguments.

    It keeps nothing between calls: one instance serves any number of them at once.
    """

    module: dspy.Module
    blueprint: Blueprint
    call: Callable[..., Awaitable[Any]]


def open_program(source: ProgramDefinition | Variant) -> Program:
    """The program of a definition as it begins, or of a variant.

    Raises: Invalid, also when the code behind a variant has other fields by now than when the variant was made.
    """
    module = build(source.module, source.signature)
    plan = _blueprint(module, source)
    if isinstance(source, ProgramDefinition):
        state = _initial_state(source, plan)
    elif source.fingerprint == plan.fingerprint:
        state = source.state
    else:
        raise Invalid.at("/module", f"{source.module} has other fields now than when variant {source.name!r} was made")
    for name, predictor in module.named_predictors():
        predictor.signature = predictor.signature.with_instructions(state[name]["instructions"])
        predictor.demos = [dict(demo) for demo in state[name]["demos"]]
    return Program(module, plan, callable_of(module, plan.input_fields))


def load(source: ProgramDefinition | Variant) -> dspy.Module:
    """The DSPy module of a definition as it begins, or of a variant. Raises: Invalid."""
    return open_program(source).module


def blueprint(source: ProgramDefinition | Variant) -> Blueprint:
    """What a definition or a variant takes and gives. Raises: Invalid with pointers relative to the program."""
    return open_program(source).blueprint


def check_input(plan: Blueprint, given: Any, pointer: str = "/input") -> dict[str, Any]:
    """The input with defaults filled in. Raises: Invalid naming every field that is missing, unknown or mistyped."""
    return check(plan.input_fields, given, pointer, complete=True)


def check_label(plan: Blueprint, given: Any, pointer: str = "/label") -> dict[str, Any]:
    """A label, some of the output fields. Raises: Invalid naming every field that is unknown or mistyped."""
    label = check(plan.output_fields, given, pointer, complete=False)
    if not label:
        raise Invalid.at(pointer, f"holds none of the output fields {', '.join(plan.output_fields)}")
    return label


def base_variant(program: str, definition: ProgramDefinition, created_at: int, name: str = "base") -> Variant:
    """The variant that a definition describes. Raises: Invalid with pointers relative to the program."""
    return make_variant(program, definition, name=name, created_at=created_at, parent=None, origin="definition")


def make_variant(  # noqa: PLR0913  # all that a variant can be made of
    program: str,
    definition: ProgramDefinition,
    *,
    name: str,
    created_at: int,
    state: Any = None,
    instructions: Any = None,
    lm: LmSettings | dict[str, Any] | str | None = None,
    parent: Variant | None,
    origin: Origin = "upload",
    compile_id: str | None = None,
) -> Variant:
    """A variant of the program as now defined; what is not given is the parent's, without parent the definition's.

    `lm` keys that are not written are inherited where the model is the same.

    Raises: Invalid naming the place, `/state/...`, `/instructions`, `/lm/...`, `/parent` or `/name`.
    """
    plan = blueprint(definition)
    if not NAME.fullmatch(name):
        raise Invalid.at("/name", "must be 1 to 64 of a-z, 0-9, - and _, with a letter or digit at both ends")
    if parent is not None and parent.fingerprint != plan.fingerprint:
        raise Invalid.at("/parent", f"variant {parent.name!r} has other fields than the program as now defined")
    held = parent.state if parent is not None else _initial_state(definition, plan)
    if state is not None:
        held = read_state(state, plan.predictors)
    if instructions is not None:
        held = instructed(held, instructions)
    variant = Variant(
        id="",
        program=program,
        name=name,
        parent=parent.name if parent is not None else None,
        origin=origin,
        compile_id=compile_id,
        module=definition.module,
        signature=definition.signature,
        fingerprint=plan.fingerprint,
        state=held,
        lm=_lm_settings(lm, parent.lm if parent is not None else definition.lm_settings),
        created_at=created_at,
    )
    return _identified(variant)


def twin(champion: Variant, created_at: int) -> Variant:
    """The champion once more, for an A/A experiment: it answers alike and is told apart by its id."""
    return _identified(
        msgspec.structs.replace(
            champion,
            name=twin_name(champion.name),
            parent=champion.name,
            origin="twin",
            compile_id=None,
            twin_of=champion.id,
            scores={},
            created_at=created_at,
        )
    )


def _identified(variant: Variant) -> Variant:
    return msgspec.structs.replace(variant, id=content_id(variant))


def _initial_state(definition: ProgramDefinition, plan: Blueprint) -> State:
    state = read_state({name: part.initial for name, part in plan.predictors.items()}, plan.predictors, "/module")
    return state if definition.instructions is None else instructed(state, definition.instructions)


def _lm_settings(written: LmSettings | dict[str, Any] | str | None, inherited: LmSettings) -> LmSettings:
    settings = inherited
    if isinstance(written, LmSettings):
        settings = written
    elif written is not None:
        settings = _uploaded_lm({"model": written} if isinstance(written, str) else written, inherited)
    check_storable(settings)
    return settings


def _uploaded_lm(given: Any, inherited: LmSettings) -> LmSettings:
    """Settings as written in a request; where the key goes is for the definitions to say, never for a request."""
    refuse(faults_in(given, "/lm"))
    if not isinstance(given, dict):
        raise Invalid.at("/lm", "must be a model's name or an object with its settings")
    kept = msgspec.to_builtins(inherited) if given.get("model", inherited.model) == inherited.model else {}
    if given.get("api_base", inherited.api_base) != inherited.api_base:
        kept.pop("api_key_env", None)
    try:
        settings = msgspec.convert({**kept, **given}, LmSettings)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$")
        raise Invalid.at("/lm" + where.rstrip("`").replace(".", "/"), reason) from None
    if settings.api_key_env and (settings.api_key_env, settings.api_base) != (
        inherited.api_key_env,
        inherited.api_base,
    ):
        raise Invalid.at(
            "/lm/api_key_env", "another key, or another address for it, can only be written in the definitions"
        )
    return settings


def _blueprint(module: dspy.Module, source: ProgramDefinition | Variant) -> Blueprint:
    outer = outer_signature(module, source.module, source.signature)
    sides = (_fields(outer.input_fields), _fields(outer.output_fields))
    parts = {name: _predictor(name, predictor) for name, predictor in module.named_predictors()}
    interface = [[[name, field.json_schema] for name, field in side.items()] for side in sides]
    inside = {
        name: [[slot.name, slot.role, slot.json_schema] for slot in part.slots.values()] for name, part in parts.items()
    }
    return Blueprint(*sides, f"{digest(interface)}.{digest(inside)}", parts)


def _fields(infos: Mapping[str, FieldInfo]) -> dict[str, Field]:
    fields = {}
    for name, info in infos.items():
        try:
            adapter, schema = json_type(info.annotation)
            default = None if info.is_required() else adapter.dump_python(info.get_default(), mode="json")
        except ValueError as error:
            raise Invalid.at("/signature", f"field {name!r}: {error}") from None
        fields[name] = Field(
            name=name,
            json_schema=schema,
            description=_extra(info)["desc"],
            adapter=adapter,
            required=info.is_required() and {"type": "null"} not in schema.get("anyOf", []),
            default=default,
        )
    return fields


def _predictor(name: str, predictor: dspy.Predict) -> Predictor:
    signature = predictor.signature
    initial = {"instructions": signature.instructions, "demos": predictor.dump_state()["demos"]}
    return Predictor(name, {key: _slot(key, info) for key, info in signature.fields.items()}, initial)


def _slot(name: str, info: FieldInfo) -> Slot:
    extra = _extra(info)
    adapter, schema = None, dict[str, Any]()
    if not extra.get(IS_TYPE_UNDEFINED):
        try:
            adapter, schema = json_type(info.annotation)
        except ValueError:
            schema = {"type": re.sub(r" at 0x\w+", "", repr(info.annotation))}
    return Slot(name, extra["__dspy_field_type"], extra["prefix"], extra["desc"], schema, adapter)


def _extra(info: FieldInfo) -> dict[str, Any]:
    """What DSPy keeps about a field."""
    return info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
