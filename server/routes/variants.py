"""Variants: looked at, compared, and made from an uploaded state or a new instruction."""

import asyncio
from typing import Annotated

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.enums import RequestEncodingType
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import BodyKwarg

from experiments.errors import Conflict, Invalid, NotFound, Stale, TooLarge
from learning.programs import make_variant
from learning.variants import Variant
from server.bodies import Strict
from server.openapi import operation
from server.parameters import Cursor, IfMatch, Limit, PathName, check_tag, content_tag
from server.ratchet import Ratchet
from server.routes.programs import answer
from server.store.definitions import add_variant, stored_variant, variant_by_id, variants_page
from server.traffic import Program
from server.wire import programs as wire

KNOWN = ResponseSpec(wire.Variant, description="The program has exactly this variant already.", generate_examples=False)
EXAMPLES = [
    Example(
        summary="Another instruction",
        value={"name": "terse", "instructions": "Answer with the category only.", "parent": "base"},
    )
]


@get("/v1/programs/{program:str}/variants", tags=["programs"], **operation("read", NotFound))
async def list_variants(
    ratchet: NamedDependency[Ratchet], program: PathName, limit: Limit = 50, cursor: Cursor = None
) -> wire.VariantPage:
    """Every variant of a program, on traffic or not."""
    ratchet.traffic.program(program)
    page = await ratchet.store.read(variants_page, program, limit=limit, cursor=cursor)
    return wire.VariantPage([wire.variant(v) for v in page.items], page.next_cursor)


@get("/v1/programs/{program:str}/variants/{variant:str}", tags=["programs"], **operation("read", NotFound))
async def get_variant(ratchet: NamedDependency[Ratchet], program: PathName, variant: PathName) -> wire.Variant:
    """One variant by name: instructions, demos, language model, lineage, scores."""
    return wire.variant(await ratchet.store.read(stored_variant, program, variant))


@get(
    "/v1/programs/{program:str}/variants/{variant:str}/diff/{other:str}",
    tags=["programs"],
    **operation("read", NotFound),
)
async def diff_variants(
    ratchet: NamedDependency[Ratchet], program: PathName, variant: PathName, other: PathName
) -> wire.Difference:
    """What changes from `variant` to `other`: a unified diff per predictor, and of the language model."""
    old = await ratchet.store.read(stored_variant, program, variant)
    new = await ratchet.store.read(stored_variant, program, other)
    return wire.diff(old, new)


@post(
    "/v1/programs/{program:str}/variants",
    tags=["programs"],
    dto=Strict[wire.NewVariant],
    return_dto=None,
    **operation("operate", NotFound, Conflict, Stale, TooLarge, also={200: KNOWN}),
)
async def create_variant(
    ratchet: NamedDependency[Ratchet],
    program: PathName,
    data: Annotated[wire.NewVariant, BodyKwarg(media_type=RequestEncodingType.JSON, examples=EXAMPLES)],
    if_match: IfMatch = None,
) -> Response[wire.Variant]:
    """Make a variant. It is off traffic until an experiment or a promotion brings it there.

    Variants never change: the same content under the same name, or under none, is answered with the variant there is
    (200); the same content under another name, or other content under a name that is taken, is refused (409).
    """
    served = ratchet.traffic.program(program)
    if if_match is not None:
        check_tag(if_match, content_tag(await answer(ratchet, program)))
    parent = await _parent(ratchet, served, data.parent)
    made = await asyncio.to_thread(_make, served, data, parent, ratchet.now())
    if data.name is None and (known := await ratchet.store.read(variant_by_id, program, made.id)):
        return Response(wire.variant(known), status_code=200)
    stored = await ratchet.store.write(add_variant, made)
    return Response(wire.variant(stored), status_code=201 if stored is made else 200)


async def _parent(ratchet: Ratchet, served: Program, name: str | None) -> Variant:
    try:
        return served.champion if name is None else await ratchet.traffic.variant(served, name)
    except NotFound as unknown:
        raise Invalid.at("/parent", unknown.detail) from None


def _make(served: Program, wanted: wire.NewVariant, parent: Variant, now: int) -> Variant:
    made = make_variant(
        served.name,
        served.definition,
        name=wanted.name or "unnamed",
        created_at=now,
        state=wanted.state,
        instructions=wanted.instructions,
        lm=wanted.lm,
        parent=parent,
    )
    return made if wanted.name else msgspec.structs.replace(made, name=f"v-{made.id[:12]}")


HANDLERS: list[HTTPRouteHandler] = [list_variants, get_variant, diff_variants, create_variant]
