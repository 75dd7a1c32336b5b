"""Fields of a program: what a request must bring, what an answer holds, and whether a value is one.

JSON types are taken at their word: true is no number, "3" is no number, 1.0 is no whole number.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import msgspec
from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from experiments.errors import Fault, Invalid, nearest
from learning.values import at, faults_in, fit, refuse


class Field(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """One input or output. `json_schema` is for showing, `adapter` for checking only.

    A field that is not `required` falls back to `default`.
    """

    name: str
    json_schema: dict[str, Any]
    description: str
    adapter: TypeAdapter[Any]
    required: bool = True
    default: Any = None

    def read(self, value: Any) -> Any:
        """The Python object that a JSON value stands for. Raises: ValidationError."""
        return self.adapter.validate_json(msgspec.json.encode(value), strict=True)

    def show(self, value: Any) -> Any:
        """The JSON value of a Python object. Raises: ValueError when the object is not of this field's type."""
        return fit(self.adapter.dump_python(self.adapter.validate_python(value, strict=True), mode="json"))


def check(fields: Mapping[str, Field], given: Any, pointer: str, *, complete: bool) -> dict[str, Any]:
    """The values given, in their normal form, and with defaults when `complete`.

    Raises: Invalid with all faults at once: what is missing (when `complete`), unknown, or of another type.
    """
    if not isinstance(given, dict):
        raise Invalid.at(pointer, f"must be an object with the fields {', '.join(fields)}")
    values: dict[str, Any] = {}
    faults: list[Fault] = []
    for name, field in fields.items():
        if name in given:
            try:
                values[name] = normal(field.adapter, given[name], at(pointer, name))
            except Invalid as unfit:
                faults += unfit.faults
        elif complete and field.required:
            faults.append(Fault(at(pointer, name), "is missing"))
        elif complete:
            values[name] = field.default
    refuse(chain(faults, _unknown(fields, given, pointer)))
    return values


def normal(adapter: TypeAdapter[Any], value: Any, pointer: str) -> Any:
    """A JSON value as its type writes it: 1 becomes 1.0 where a float is asked for. Raises: Invalid."""
    refuse(faults_in(value, pointer))
    try:
        return adapter.dump_python(adapter.validate_json(msgspec.json.encode(value), strict=True), mode="json")
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
    places = (pointer + "".join(at("", part) for part in each["loc"]) for each in found)
    messages = (each["msg"].replace("Input should be", "must be") for each in found)
    raise Invalid(f"{pointer} is of another type", faults=map(Fault, places, messages))


def json_type(annotation: Any) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    """The checker of a type and its JSON schema. Raises: ValueError when JSON cannot hold its values."""
    try:
        adapter = TypeAdapter(annotation)
        return adapter, adapter.json_schema()
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise ValueError(f"JSON cannot hold it: {str(error).partition(chr(10))[0]}") from None


def _unknown(fields: Mapping[str, Field], given: dict[str, Any], pointer: str) -> Iterator[Fault]:
    for name in given:
        if name not in fields:
            reason = f"is not a field of this program; {nearest(str(name)[:100], fields)}"
            yield Fault(at(pointer, name), reason)
