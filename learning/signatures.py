"""Signature strings such as `ticket: str, tags: list[str] -> category: Literal['bug', 'other']`.

DSPy's own reader imports any module whose name stands where a type is expected, and passes over whatever it does not
expect (`a, *, b -> c` loses b). This one knows the types below, runs nothing, and refuses all else with a reason.
"""

import ast
from typing import Any, Literal, Optional, Union

import msgspec

from experiments.errors import Invalid, nearest
from learning.values import faults_in

_LONGEST = 10_000
_DEEPEST = 8
_PLAIN: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict, "Any": Any}
_GENERIC: dict[str, Any] = {"list": list, "dict": dict, "Literal": Literal, "Optional": Optional, "Union": Union}
_KNOWN = sorted({*_PLAIN, *_GENERIC, "None"})


class Parts(msgspec.Struct, frozen=True):
    """The fields of a signature string, in order, with their types."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]


def parse(signature: str) -> Parts:
    """Raises: Invalid at `/signature` naming what could not be read."""
    if len(signature) > _LONGEST or signature.count("->") != 1:
        raise _invalid("write `inputs -> outputs` with exactly one `->`, such as 'question: str -> answer: str'")
    inputs, outputs = (_fields(side.strip()) for side in signature.split("->"))
    if twice := inputs.keys() & outputs.keys():
        raise _invalid(f"{', '.join(sorted(twice))} cannot be both an input and an output")
    return Parts(inputs, outputs)


def _fields(side: str) -> dict[str, Any]:
    try:
        tree = ast.parse(f"def f({side}): pass").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _invalid(f"cannot read {side!r:.200}: {getattr(error, 'msg', error)}") from None
    match tree:
        case [
            ast.FunctionDef(
                args=ast.arguments(
                    posonlyargs=[], args=[_, *_] as fields, vararg=None, kwonlyargs=[], kwarg=None, defaults=[]
                ),
                body=[ast.Pass()],
                returns=None,
            )
        ]:
            types = {field.arg: str if field.annotation is None else _type(field.annotation) for field in fields}
            if len(types) == len(fields):
                return types
            raise _invalid(f"{side!r:.200} names a field twice")
    raise _invalid(f"{side!r:.200} is not a list of fields such as `name: type, name: type`")


def _type(node: ast.expr, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise _invalid(f"types are nested at most {_DEEPEST} deep")
    match node:
        case ast.Constant(value=None):
            return type(None)
        case ast.Name(id=name) if name in _PLAIN:
            return _PLAIN[name]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner) if _listed(inner):
            return Literal[tuple(_choice(choice) for choice in _listed(inner))]
        case ast.Subscript(value=ast.Name(id=name), slice=inner) if name in _GENERIC:
            return _generic(name, [_type(argument, depth + 1) for argument in _listed(inner)])
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _type(left, depth + 1) | _type(right, depth + 1)
        case ast.Name(id=name) if name not in _GENERIC:
            raise _invalid(f"type {name!r:.100} is not known; {nearest(name[:100], _KNOWN)}")
    raise _invalid(f"{ast.unparse(node)!r:.200} is not a type; allowed: {', '.join(_KNOWN)}")


def _generic(name: str, arguments: list[Any]) -> Any:
    if name == "Union" and arguments:
        return Union[tuple(arguments)]  # noqa: UP007  # of a list of types
    if len(arguments) != (2 if name == "dict" else 1):
        raise _invalid(f"{name}[...] takes {'a str and a type' if name == 'dict' else 'one type'}")
    if name == "dict" and arguments[0] is not str:
        raise _invalid("the keys of a dict are str, as they are in JSON")
    return _GENERIC[name][tuple(arguments) if name == "dict" else arguments[0]]


def _choice(node: ast.expr) -> str | int | None:
    value = node.value if isinstance(node, ast.Constant) else ...
    if isinstance(value, (str, int, type(None))) and not any(faults_in(value, "")):
        return value
    raise _invalid(f"Literal takes quoted texts, whole numbers, True, False and None, not {ast.unparse(node)!r:.100}")


def _listed(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _invalid(message: str) -> Invalid:
    return Invalid.at("/signature", message)
