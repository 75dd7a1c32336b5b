"""Programs and their variants on the wire."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from experiments.assignment import Routing
from experiments.metrics import Metric
from learning.definitions import LmSettings, ProgramDefinition
from learning.fields import Field as DomainField
from learning.programs import Blueprint
from learning.variants import Origin, PredictorDiff
from learning.variants import Variant as DomainVariant
from learning.variants import diff as difference
from monitoring.signals import Status
from server.wire.scalars import Share, Time, moment


class DriftStatus(msgspec.Struct, frozen=True):
    """What the drift detectors say of a program at once. `warming`: they have not seen enough to say anything."""

    status: Status


class Field(msgspec.Struct, frozen=True):
    """One input or output field of a program."""

    json_schema: dict[str, Any]
    description: str
    required: bool


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """One program: what it takes and gives, how it is measured, and who serves it.

    `split` maps variants to their shares of the traffic in force; `epoch` numbers the changes of it.
    """

    name: str
    signature: str | None
    module: str
    inputs: dict[str, Field]
    outputs: dict[str, Field]
    champion: str
    experiment_id: str | None
    split: dict[str, Share]
    epoch: int
    metrics: dict[str, Metric]
    drift: DriftStatus
    promotion: Literal["auto", "recommend"]
    created_at: Time


class ProgramPage(msgspec.Struct, frozen=True):
    """Programs, newest first; `next_cursor` is null on the last page."""

    items: list[Program]
    next_cursor: str | None


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable way to run a program: the instructions and demos of each predictor, and the language model.

    `id` is the hash of all that; `name` is unique in the program. `state` is what POST takes back.
    """

    name: str
    id: str
    program: str
    parent: str | None
    origin: Origin
    compile_id: str | None
    twin_of: str | None
    instructions: dict[str, str]
    demos: dict[str, list[dict[str, Any]]]
    lm: LmSettings
    state: dict[str, Any]
    scores: dict[str, Any]
    created_at: Time


class VariantPage(msgspec.Struct, frozen=True):
    """Variants, newest first; `next_cursor` is null on the last page."""

    items: list[Variant]
    next_cursor: str | None


class NewVariant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A variant to be made. What is left out is the parent's.

    `state` is what DSPy saves as JSON, or our short form of it, `{predictor: {instructions, demos}}`. `instructions` is
    enough for a program with one predictor. `lm` is a model's name, or a mapping with the keys to change.
    """

    name: (
        Annotated[str, Meta(min_length=1, max_length=64, description="Made from the content hash when left out.")]
        | None
    ) = None
    state: dict[str, Any] | None = None
    instructions: str | None = None
    lm: str | dict[str, Any] | None = None
    parent: Annotated[str, Meta(min_length=1, max_length=256, description="By default the champion.")] | None = None


class Difference(msgspec.Struct, frozen=True):
    """What tells two variants apart, as unified diffs from `old` to `new`; empty where nothing does."""

    old: str
    new: str
    predictors: tuple[PredictorDiff, ...]
    lm: str


def program(
    name: str, definition: ProgramDefinition, blueprint: Blueprint, routing: Routing, drift: Status, created_at: int
) -> Program:
    """A program as its definition and the routing in force make it."""
    return Program(
        name=name,
        signature=definition.signature,
        module=definition.module,
        inputs=_fields(blueprint.input_fields),
        outputs=_fields(blueprint.output_fields),
        champion=routing.champion,
        experiment_id=routing.running,
        split=routing.split if routing.live else {routing.champion: 1.0},
        epoch=routing.epoch,
        metrics=definition.metrics,
        drift=DriftStatus(drift),
        promotion=definition.promotion,
        created_at=moment(created_at),
    )


def variant(made: DomainVariant) -> Variant:
    """A variant in full."""
    return Variant(
        name=made.name,
        id=made.id,
        program=made.program,
        parent=made.parent,
        origin=made.origin,
        compile_id=made.compile_id,
        twin_of=made.twin_of,
        instructions={predictor: part["instructions"] for predictor, part in made.state.items()},
        demos={predictor: part["demos"] for predictor, part in made.state.items()},
        lm=made.lm,
        state=made.state,
        scores=made.scores,
        created_at=moment(made.created_at),
    )


def diff(old: DomainVariant, new: DomainVariant) -> Difference:
    """What tells two variants apart."""
    found = difference(old, new)
    return Difference(old.name, new.name, found.predictors, found.lm)


def _fields(fields: dict[str, DomainField]) -> dict[str, Field]:
    return {name: Field(field.json_schema, field.description, field.required) for name, field in fields.items()}
