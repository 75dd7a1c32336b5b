"""What operators declared: versions of the definitions file, the programs in force and their immutable variants."""

from typing import Any

import msgspec
import sqlalchemy as sa

from experiments.errors import Conflict, NotFound, Stale, nearest
from learning.definitions import ProgramDefinition
from learning.variants import Variant
from server.store.rows import Page, decode, encode, insert, insert_new, page_of
from server.store.tables import definitions, programs, variants


class DefinitionsVersion(msgspec.Struct, frozen=True):
    """One applied definitions file, word for word. Versions count from 1; the newest is in force."""

    version: int
    source: str
    applied_at: int
    actor: str | None


class StoredProgram(msgspec.Struct, frozen=True):
    """A program in force; `created_at` is when a program of this name was first applied."""

    name: str
    definition: ProgramDefinition
    created_at: int


def append_definitions(
    conn: sa.Connection, source: str, applied_at: int, actor: str | None, *, after: int
) -> DefinitionsVersion:
    """Keep an applied file as the version next to `after` (0: the first). Raises: Stale when there is a newer one."""
    latest = latest_definitions(conn)
    made = DefinitionsVersion(after + 1, source, applied_at, actor)
    if (latest.version if latest else 0) != after or not insert_new(conn, definitions, **msgspec.structs.asdict(made)):
        raise Stale("other definitions were applied in the meantime; look at the difference again")
    return made


def latest_definitions(conn: sa.Connection) -> DefinitionsVersion | None:
    """The definitions in force; None before the first."""
    row = conn.execute(sa.select(definitions).order_by(definitions.c.version.desc()).limit(1)).one_or_none()
    return None if row is None else DefinitionsVersion(**row._asdict())


def put_program(conn: sa.Connection, name: str, definition: ProgramDefinition, at: int) -> None:
    """Put a program's definition in force; `at` becomes its `created_at` if it is new."""
    body = encode(definition)
    statement = insert(conn, programs).values(name=name, definition=body, created_at=at)
    conn.execute(statement.on_conflict_do_update(index_elements=[programs.c.name], set_={"definition": body}))


def remove_program(conn: sa.Connection, name: str) -> None:
    """Take a program out of force. Its variants, routings and facts stay."""
    conn.execute(programs.delete().where(programs.c.name == name))


def stored_programs(conn: sa.Connection) -> list[StoredProgram]:
    """Every program, by name."""
    return [_program(row) for row in conn.execute(sa.select(programs).order_by(programs.c.name))]


def programs_page(conn: sa.Connection, *, limit: int = 50, cursor: str | None = None) -> Page[StoredProgram]:
    """Programs, newest first. Raises: Invalid at /limit or /cursor."""
    p = programs.c
    rows, following = page_of(conn, sa.select(programs), p.created_at, p.name, limit, cursor)
    return Page([_program(row) for row in rows], following)


def stored_program(conn: sa.Connection, name: str) -> StoredProgram:
    """Raises: NotFound with the nearest name."""
    row = conn.execute(sa.select(programs).where(programs.c.name == name)).one_or_none()
    if row is None:
        raise NotFound(f"no program is called {name!r}; {nearest(name, conn.scalars(sa.select(programs.c.name)))}")
    return _program(row)


def _program(row: sa.Row[Any]) -> StoredProgram:
    return StoredProgram(row.name, decode(row.definition, ProgramDefinition), row.created_at)


def add_variant(conn: sa.Connection, variant: Variant) -> Variant:
    """Keep a variant, and return it as stored: the same name with the same content again changes nothing.

    Raises: Conflict when the name belongs to other content, or the content has another name already.
    """
    new = insert_new(
        conn,
        variants,
        program=variant.program,
        name=variant.name,
        id=variant.id,
        parent=variant.parent,
        origin=variant.origin,
        body=encode(variant),
        created_at=variant.created_at,
    )
    if new:
        return variant
    v = variants.c
    query = sa.select(v.body).where(v.program == variant.program, (v.name == variant.name) | (v.id == variant.id))
    known = [decode(body, Variant) for body in conn.scalars(query)]
    for other in known:
        if other.id == variant.id and other.name == variant.name:
            return other
    for other in known:
        if other.name == variant.name:
            raise Conflict(
                f"{variant.program!r} has another variant {variant.name!r}; variants never change, take a new name"
            )
    raise Conflict(f"program {variant.program!r} has exactly this variant already, as {known[0].name!r}")


def stored_variant(conn: sa.Connection, program: str, name: str) -> Variant:
    """Raises: NotFound with the nearest name."""
    v = variants.c
    body = conn.scalar(sa.select(v.body).where(v.program == program, v.name == name))
    if body is None:
        names = conn.scalars(sa.select(v.name).where(v.program == program)).all()
        if not names:
            raise NotFound(f"no program is called {program!r}")
        raise NotFound(f"program {program!r} has no variant {name!r}; {nearest(name, names)}")
    return decode(body, Variant)


def variant_by_id(conn: sa.Connection, program: str, variant_id: str) -> Variant | None:
    """The variant with this content hash."""
    body = conn.scalar(sa.select(variants.c.body).where(variants.c.program == program, variants.c.id == variant_id))
    return None if body is None else decode(body, Variant)


def stored_variants(conn: sa.Connection, program: str) -> list[Variant]:
    """Every variant of a program, oldest first."""
    v = variants.c
    query = sa.select(v.body).where(v.program == program).order_by(v.created_at, v.name)
    return [decode(body, Variant) for body in conn.scalars(query)]


def variants_page(conn: sa.Connection, program: str, *, limit: int = 50, cursor: str | None = None) -> Page[Variant]:
    """A program's variants, newest first. Raises: Invalid at /limit or /cursor."""
    v = variants.c
    query = sa.select(v.created_at, v.name, v.body).where(v.program == program)
    rows, following = page_of(conn, query, v.created_at, v.name, limit, cursor)
    return Page([decode(row.body, Variant) for row in rows], following)
