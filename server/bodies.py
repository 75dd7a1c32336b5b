"""Request bodies: JSON in, exactly the declared Struct out, or an `Invalid` that names the field.

Litestar's own extraction converts leniently (the text "0.5" passes as a number) and hides where an error was. A route
declares `data: JSONBody[NewVariant]` with `dto=Strict[NewVariant], return_dto=None`, and gets this decoder instead.
"""

import json
import re
from collections.abc import Generator, Iterable
from functools import cache
from typing import Any, TypeVar

import msgspec
from litestar._openapi.schema_generation import SchemaCreator  # the type of a hook's argument; exported nowhere else
from litestar.dto import AbstractDTO
from litestar.dto.data_structures import DTOFieldDefinition
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from experiments.errors import Invalid, nearest
from learning.values import at, faults_in, refuse

T = TypeVar("T", bound=msgspec.Struct)

_LONGEST_ECHO = 100
"""Characters of a caller's own words that an error repeats."""


class Strict(AbstractDTO[T]):
    """Decodes a body with msgspec in strict mode."""

    def decode_bytes(self, value: bytes) -> Any:
        """The Struct that `value` holds. Raises: Invalid."""
        return decode(value, self.model_type)

    @classmethod
    def create_for_field_definition(
        cls, field_definition: FieldDefinition, handler_id: str, backend_cls: Any = None
    ) -> None:
        """Nothing: the Struct itself is the transfer model."""

    @classmethod
    def create_openapi_schema(
        cls,
        field_definition: FieldDefinition,
        handler_id: str,  # noqa: ARG003  # Litestar passes it by name
        schema_creator: SchemaCreator,
    ) -> Reference | Schema:
        """The Struct's own schema."""
        return schema_creator.for_field_definition(field_definition)

    @classmethod
    def generate_field_definitions(
        cls,
        model_type: type[Any],  # noqa: ARG003  # the hook's signature is Litestar's
    ) -> Generator[DTOFieldDefinition, None, None]:
        """No field is renamed or left out."""
        yield from ()

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:  # noqa: ARG003  # as above
        """No field is looked into."""
        return False


def decode(body: bytes, kind: type[T], *, in_pieces: bool = False) -> T:
    """The `kind` that a JSON `body` holds; `in_pieces` when it holds `msgspec.Raw`, to be decoded by itself.

    Raises: Invalid with the JSON pointer of what is wrong.
    """
    try:
        value: T = _decoder(kind).decode(body)
        if b"\\u0000" in body and not in_pieces:
            _refuse_nul(msgspec.to_builtins(value, enc_hook=_undecoded), "")
    except msgspec.ValidationError as error:
        raise _invalid(str(error), kind.__struct_fields__) from None
    except msgspec.DecodeError as error:
        raise _unreadable(body, error) from None
    except UnicodeDecodeError:
        raise Invalid.at("", "the body is not JSON: it is not UTF-8") from None
    except RecursionError:
        raise Invalid.at("", "the body is nested too deeply") from None
    return value


def _unreadable(body: bytes, error: msgspec.DecodeError) -> Invalid:
    """Why a body is not JSON: at its place where only a NaN or half a surrogate pair in it is none."""
    try:
        refuse(faults_in(json.loads(body), ""))
    except Invalid as found:
        return found
    except (ValueError, RecursionError):
        pass
    return Invalid.at("", f"the body is not JSON: {error}")


@cache
def _decoder(kind: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _invalid(message: str, fields: Iterable[str]) -> Invalid:
    """The message `WHAT - at `$.a[0]`` of msgspec as a fault at `/a/0`, with the nearest name to an unknown one."""
    what, _, path = message.partition(" - at `$")
    pointer = re.sub(r"\.|\[(?=\d)", "/", path.rstrip("`").replace("[...]", "")).replace("]", "")
    if unknown := re.search(r"unknown field `(.*)`", what, re.DOTALL):
        name = unknown[1][:_LONGEST_ECHO]
        return Invalid.at(at(pointer, name), "unknown field" if pointer else f"unknown field; {nearest(name, fields)}")
    if missing := re.search(r"missing required field `(.*)`", what):
        return Invalid.at(f"{pointer}/{missing[1]}", "this field is required")
    if (own := re.match(r"(\w+): ", what)) and own[1] in fields:
        return Invalid.at(f"{pointer}/{own[1]}", what[own.end() :])
    return Invalid.at(pointer, what.replace("`", "'"))


def _undecoded(_: msgspec.Raw) -> None:
    """Stands for a part that is decoded, and checked, by itself later."""


def _refuse_nul(value: Any, pointer: str) -> None:
    """Raises: Invalid where a text or a key holds NUL, which no PostgreSQL text column can."""
    if isinstance(value, str) and "\x00" in value:
        raise Invalid.at(pointer, "text must not hold the NUL character")
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, child in children:
        _refuse_nul(key, pointer)
        _refuse_nul(child, at(pointer, key))
