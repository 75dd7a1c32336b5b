"""What goes wrong, as problem details (RFC 9457): one table from error classes to status and type.

A problem's title is the first line of its class's docstring, its detail is the error's own sentence.
"""

from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar._signature.model import ErrorMessage  # the items of a ValidationException; exported nowhere else
from litestar.enums import ParamType
from litestar.exceptions import HTTPException, NotFoundException, ValidationException
from litestar.types import ExceptionHandlersMap

from experiments.errors import (
    Busy,
    Conflict,
    Fault,
    Invalid,
    KeyReused,
    LmError,
    LmFailed,
    LmTimeout,
    NotFound,
    RatchetError,
    RowRefused,
    Stale,
    TooLarge,
    Unavailable,
)
from server.logs import REQUEST_ID
from server.wire.serving import Problem

PROBLEM_JSON = "application/problem+json"

TABLE: dict[type[RatchetError], tuple[int, str]] = {
    Invalid: (400, "invalid"),
    KeyReused: (422, "key-reused"),
    RowRefused: (400, "row-refused"),
    NotFound: (404, "not-found"),
    Conflict: (409, "conflict"),
    Stale: (412, "stale"),
    TooLarge: (413, "too-large"),
    LmError: (502, "lm-failed"),
    LmFailed: (502, "lm-failed"),
    LmTimeout: (504, "lm-timeout"),
    Busy: (503, "busy"),
    Unavailable: (503, "unavailable"),
    RatchetError: (500, "internal"),
}
"""Status and `type` of every error Ratchet raises on purpose."""


def problem(error: Exception) -> Problem:
    """What a caller is told about an error; nothing of one that was not raised on purpose."""
    match error:
        case RatchetError():
            status, kind = next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)
            title = (type(error).__doc__ or "").partition("\n")[0].rstrip(".")
            recorded = error.prediction_id if isinstance(error, LmError) else None
            return _problem(kind, title, status, error.detail, error.faults, recorded)
        case ValidationException():
            faults = _faults(error)
            detail = "; ".join(f"{fault.pointer or '/'}: {fault.message}" for fault in faults) or error.detail
            return _problem("invalid", "The request is not valid", 400, detail, faults)
        case NotFoundException():
            return _problem("not-found", "There is no such thing", 404, "nothing is at this path; /docs lists them all")
        case HTTPException():
            phrase = HTTPStatus(error.status_code).phrase
            return _problem(phrase.lower().replace(" ", "-"), phrase, error.status_code, error.detail)
        case RecursionError():
            return _problem("invalid", "The request is not valid", 400, "the body is nested too deeply")
        case _:
            return _problem("internal", "Something went wrong", 500, "this is our fault; the log has it by request_id")


def handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer with a problem, and log an error that nobody raised on purpose."""
    told = problem(error)
    if told.type == "internal":
        request.app.state.ratchet.log.error("request_failed", exc_info=error)
    return Response(
        msgspec.json.encode(told), status_code=told.status, media_type=PROBLEM_JSON, headers=_headers(error)
    )


HANDLERS: ExceptionHandlersMap = {Exception: handle, HTTPException: handle}


def _problem(
    kind: str, title: str, status: int, detail: str, faults: tuple[Fault, ...] = (), prediction_id: str | None = None
) -> Problem:
    return Problem(
        type=kind,
        title=title,
        status=status,
        detail=detail,
        errors=faults,
        request_id=REQUEST_ID.get(),
        prediction_id=prediction_id,
    )


def _faults(error: ValidationException) -> tuple[Fault, ...]:
    """Litestar's list of wrong parameters, each at the part of the request it came from."""
    listed = error.extra if isinstance(error.extra, list) else []
    return tuple(_fault(item) for item in listed)


def _fault(item: ErrorMessage) -> Fault:
    name, source = item.get("key"), item.get("source")
    if name == "data":
        return Fault("", "a JSON body is needed")
    if source == ParamType.HEADER and name:
        name = name.replace("_", "-").title()
    place = [getattr(part, "value", part) for part in (source, name) if part]
    return Fault("".join(f"/{part}" for part in place), item["message"].replace("`", "'"))


def _headers(error: Exception) -> dict[str, str]:
    if isinstance(error, (Busy, Unavailable)):
        return {"Retry-After": str(max(1, round(error.retry_after)))}
    return dict(error.headers or {}) if isinstance(error, HTTPException) else {}
