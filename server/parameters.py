"""What routes take beside a body: paging, filters, preconditions; and the guard that refuses what they do not take."""

import hashlib
import re
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Response
from litestar.connection import ASGIConnection
from litestar.datastructures import ResponseHeader
from litestar.handlers import BaseRouteHandler
from litestar.params import HeaderParameter, PathParameter, QueryParameter

from experiments.errors import Invalid, Stale, nearest

T = TypeVar("T")

LONGEST = 256
ETAG = ResponseHeader(name="ETag", documentation_only=True, description="Its version, for If-Match.")

Limit = Annotated[int, QueryParameter(ge=1, le=500, description="How many items a page holds at most.")]
Cursor = Annotated[str | None, QueryParameter(description="`next_cursor` of the page before.")]
IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match", description="The ETag of what was read; refused with 412 when it has changed since."
    ),
]
PathName = Annotated[str, PathParameter(min_length=1, max_length=LONGEST)]


async def refuse_unknown(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """The guard of the whole application: a slip in a parameter's name must not pass for "no filter".

    Raises: Invalid for a query parameter the route does not have, and for values that no row can hold.
    """
    for name, value in connection.path_params.items():
        _check(f"/path/{name}", value)
    if not connection.scope["query_string"]:
        return
    known = _query_names(handler)
    for name, value in connection.query_params.multi_items():
        if name not in known:
            raise Invalid.at(f"/query/{name[:LONGEST]}", f"unknown parameter; {nearest(name[:LONGEST], known)}")
        _check(f"/query/{name}", value)


def version(if_match: str | None) -> int | None:
    """The version that a caller says it saw; None when it does not say or takes any. Raises: Invalid, Stale."""
    if if_match is None or if_match.strip() == "*":
        return None
    if not (tag := re.fullmatch(r'\s*"([^"]{1,64})"\s*', if_match)):
        raise Invalid.at("/header/If-Match", 'must be one ETag as it was answered, such as "3", or *')
    if not re.fullmatch(r"[0-9]{1,9}", tag[1]):
        raise Stale("this ETag is of something else; read it again and retry")
    return int(tag[1])


def version_tag(number: int) -> str:
    """The ETag of something that counts its versions."""
    return f'"{number}"'


def content_tag(answer: msgspec.Struct) -> str:
    """The ETag of something that does not: a hash of what is said about it."""
    return f'"{hashlib.blake2b(msgspec.json.encode(answer), digest_size=12).hexdigest()}"'


def tagged(answer: T, tag: str, status: int = 200) -> Response[T]:
    """An answer with its ETag."""
    return Response(answer, headers={"ETag": tag}, status_code=status)


def check_tag(if_match: str | None, tag: str) -> None:
    """Raises: Stale when the caller saw another state than the one with this tag."""
    if if_match is not None and if_match.strip() not in ("*", tag):
        raise Stale("this was changed since it was read; read it again and retry")


def _query_names(handler: BaseRouteHandler) -> set[str]:
    fields = handler.parsed_fn_signature.parameters
    kwargs = {name: field.kwarg_definition for name, field in fields.items()}
    return {kwarg.name or name for name, kwarg in kwargs.items() if isinstance(kwarg, QueryParameter)}


def _check(pointer: str, value: object) -> None:
    if isinstance(value, str) and ("\x00" in value or len(value) > LONGEST):
        raise Invalid.at(pointer, f"must be at most {LONGEST} characters, without the NUL character")
