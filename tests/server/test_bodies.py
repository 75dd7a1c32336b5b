"""Bodies: exactly what is declared, or an error at the place that is wrong."""

from typing import Any

import msgspec
import pytest

from experiments.errors import Invalid
from server.bodies import decode


class Leg(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    length: float


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    legs: tuple[Leg, ...] = ()
    notes: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if len(self.legs) == 1:
            raise ValueError("legs: one leg does not hold a table")


@pytest.mark.parametrize(
    ("body", "pointer", "said"),
    [
        (b"", "", "not JSON"),
        (b"{", "", "not JSON"),
        (b"[]", "", "Expected 'object', got 'array'"),
        (b'{"name": "\xff"}', "", "not UTF-8"),
        (b"{}", "/name", "required"),
        (b'{"name": 1}', "/name", "Expected 'str', got 'int'"),
        (b'{"nmae": "x"}', "/nmae", "did you mean 'name'?"),
        (b'{"name": "x", "legs": [{"length": "0.5"}]}', "/legs/0/length", "Expected 'float', got 'str'"),
        (b'{"name": "x", "legs": [{"length": 1}, {"lenght": 1}]}', "/legs/1/lenght", "unknown field"),
        (b'{"name": "x", "legs": [{"length": 1}]}', "/legs", "one leg does not hold a table"),
        (b'{"name": "x", "legs": [{"length": NaN}]}', "/legs/0/length", "must be a finite number"),
        (b'{"name": "\\ud800"}', "/name", "half a surrogate pair"),
        (b'{"name": "x", "legs": [{"length": -Infinity', "", "not JSON"),
        (b'{"name": "a\\u0000b"}', "/name", "NUL"),
        (b'{"name": "x", "notes": {"a/b": ["\\u0000"]}}', "/notes/a~1b/0", "NUL"),
        (b'{"name": "x", "notes": {"\\u0000": 1}}', "/notes", "NUL"),
        (b'{"name": "x", "notes": ' + b'{"a":' * 100_000, "", "nested too deeply"),
    ],
)
def test_a_wrong_body_is_refused_where_it_is_wrong(body: bytes, pointer: str, said: str) -> None:
    with pytest.raises(Invalid) as refused:
        decode(body, Table)
    (fault,) = refused.value.faults
    assert fault.pointer == pointer
    assert said in fault.message


def test_a_backslash_and_u0000_as_text_is_no_nul() -> None:
    assert decode(rb'{"name": "\\u0000"}', Table).name == r"\u0000"


def test_an_error_repeats_no_more_than_a_little_of_a_huge_name() -> None:
    with pytest.raises(Invalid) as refused:
        decode(b'{"' + b"x" * 10_000_000 + b'": 1}', Table)
    assert len(refused.value.detail) < 1000
