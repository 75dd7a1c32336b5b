"""The OpenAPI document and the page that shows it.

Routes are documented where they are written: `operation` gives each its guard, its security and every problem it may
end in. Litestar derives paths and parameters; the schemas are msgspec's own, so that the document says exactly what the
decoders accept. The page is Swagger UI, served from here: it asks no other host for anything and runs under a content
security policy without `unsafe-inline`.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from typing import Any, get_args, get_origin

import msgspec
from litestar import Litestar, Request, Response, Router, get
from litestar._openapi.schema_generation import SchemaCreator  # the type of a hook's argument; exported nowhere else
from litestar.enums import OpenAPIMediaType
from litestar.exceptions import ImproperlyConfiguredException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import Components, License, Schema, SecurityScheme, Tag
from litestar.plugins import OpenAPISchemaPlugin
from litestar.response import Redirect
from litestar.routes import HTTPRoute
from litestar.typing import FieldDefinition

from experiments.errors import Invalid, RatchetError, Unavailable
from server.auth import needs
from server.errors import PROBLEM_JSON, TABLE
from server.wire.operations import Scope
from server.wire.serving import Problem

TAGS = {
    "serving": "Predict, and report what became of a prediction.",
    "programs": "What is served: programs, their immutable variants, the examples browser, figures per variant.",
    "experiments": "Variants on trial: split, evidence, verdict, promotion, rollback.",
    "learning": "Compile runs: recompile a program from what was reported about its predictions.",
    "operations": "The state of the whole server, the switch that stops every automatic act, API keys.",
}
DESCRIPTION = """
Ratchet serves an LLM program, puts every change of it on trial against the champion, and promotes only on evidence that
stays valid however often it is looked at.

Times are RFC 3339 in UTC, money is a decimal string in US dollars, unknown fields and parameters are refused, and every
error is `application/problem+json` with a JSON pointer to what is wrong. Lists are newest first: pass `next_cursor` as
`cursor` until it is null.
"""
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SCHEMAS = "#/components/schemas/{name}"
_HEADERS = {
    "X-Request-ID": "The id of this request in the server's logs; the caller's own where one was sent.",
    "Retry-After": "Seconds after which a retry makes sense.",
    "WWW-Authenticate": "Always `Bearer`.",
    "ETag": "The version of what was answered, for If-Match.",
    "Allow": "The methods this path has.",
    "Location": "Where the new thing is.",
}
_STATIC = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "docs.js": "text/javascript",
}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Ratchet: HTTP interface</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="docs"></div>
<noscript>This page needs JavaScript; <a href="/openapi.json">the document itself</a> does not.</noscript>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/docs.js"></script>
</body>
</html>
"""


def operation(
    scope: Scope | None, *errors: type[RatchetError], also: Mapping[int, ResponseSpec] | None = None
) -> dict[str, Any]:
    """What every route says of itself: the scope it needs (None: it is open) and the problems it may end in.

    `Invalid`, the missing key, the missing scope, and a database out of reach come by themselves. `also` are successes
    beside the usual one.
    """
    problems: dict[int, list[str]] = {}
    raised: dict[type[RatchetError], None] = dict.fromkeys((Invalid, *errors, Unavailable, RatchetError))
    for error in raised:
        problems.setdefault(TABLE[error][0], []).append((error.__doc__ or "").partition("\n")[0])
    if scope is not None:
        problems[401] = ["No valid key was sent."]
        problems[403] = [f"The key does not have the scope `{scope}`."]
    return {
        "guards": [] if scope is None else [needs(scope)],
        "security": [] if scope is None else [{"key": [scope]}],
        "responses": {**{status: _problem(said) for status, said in sorted(problems.items())}, **(also or {})},
    }


def _problem(said: Iterable[str]) -> ResponseSpec:
    return ResponseSpec(Problem, description=" ".join(said), media_type=PROBLEM_JSON, generate_examples=False)


def config(version: str) -> OpenAPIConfig:
    """Litestar's part of the document; `openapi_json` serves the whole."""
    key = SecurityScheme(type="http", scheme="bearer", description="An API key; `ratchet keys create` makes one.")
    return OpenAPIConfig(
        title="Ratchet",
        version=version,
        description=DESCRIPTION.strip(),
        license=License(name="Apache-2.0", identifier="Apache-2.0"),
        tags=[Tag(name, description) for name, description in TAGS.items()],
        components=Components(security_schemes={"key": key}),
        use_handler_docstrings=True,
        render_plugins=[_Page(path="/"), _Document(path="/openapi.json", media_type=OpenAPIMediaType.OPENAPI_JSON)],
        openapi_router=Router(
            "/docs",
            route_handlers=[],
            include_in_schema=False,
            response_headers={
                "Content-Security-Policy": CSP,
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
                "Cache-Control": "no-cache",
            },
        ),
        operation_id_creator=lambda handler, _method, _path: handler.handler_name,
    )


def document(app: Litestar) -> dict[str, Any]:
    """The whole OpenAPI document."""
    made: dict[str, Any] = app.openapi_schema.to_schema()
    made["components"]["schemas"] |= _schemas(_kinds(app))
    made["components"]["headers"] = {
        name: {"description": said, "schema": {"type": "string"}} for name, said in _HEADERS.items()
    }
    for path in made["paths"].values():
        for entry in path.values():
            entry["summary"] = entry["operationId"].replace("_", " ").capitalize()
            for status, response in entry["responses"].items():
                _add_headers(int(status), response)
    return made


def _add_headers(status: int, response: dict[str, Any]) -> None:
    names = ["X-Request-ID", *response.get("headers", ())]
    names += {401: ["WWW-Authenticate"], 405: ["Allow"], 503: ["Retry-After"]}.get(status, [])
    response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _kinds(app: Litestar) -> Iterator[Any]:
    """Every type that a documented route takes or answers with."""
    for route in app.routes:
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else ():
            if handler.resolve_include_in_schema():
                yield from _annotations(handler)


def _annotations(handler: HTTPRouteHandler) -> Iterator[Any]:
    signature = handler.parsed_fn_signature
    if body := signature.parameters.get("data"):
        yield body.annotation
    yield signature.return_type.annotation
    yield from (response.data_container for response in (handler.responses or {}).values())


def _schemas(kinds: Iterable[Any]) -> dict[str, Any]:
    """The schemas, by msgspec, of the Structs in these types and all they refer to."""
    made: dict[str, Any] = {}
    for kind in kinds:
        more: dict[str, Any] = {}
        if inner := get_args(kind):
            more = _schemas(inner)
        elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            more = _schema(kind)
        for name in made.keys() & more.keys():
            if made[name] != more[name]:
                raise ImproperlyConfiguredException(
                    detail=f"two Structs are called {name}; the document needs one name each"
                )
        made |= more
    return made


def _schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """One Struct's schemas. msgspec refuses unions of Structs, which only answers hold: these are put together here."""
    try:
        return msgspec.json.schema_components([kind], ref_template=_SCHEMAS)[1]
    except TypeError:
        fields = msgspec.structs.fields(kind)
        own = {
            "title": kind.__name__,
            "description": inspect.getdoc(kind),
            "type": "object",
            "properties": {field.encode_name: _union(field.type) for field in fields},
            "required": [field.encode_name for field in fields],
        }
        return {kind.__name__: own, **_schemas(field.type for field in fields)}


def _union(kind: Any) -> dict[str, Any]:
    """The schema of a Struct, a union of them, or a list of either."""
    inner = get_args(kind)
    if get_origin(kind) is list:
        return {"type": "array", "items": _union(inner[0])}
    if inner:
        return {"anyOf": [_union(member) for member in inner]}
    return {"$ref": _SCHEMAS.format(name=kind.__name__)}


class Structs(OpenAPISchemaPlugin):
    """Makes Litestar refer to Structs by name and leave what they hold to `document`."""

    def is_plugin_supported_field(self, field_definition: FieldDefinition) -> bool:
        """Every Struct."""
        return not field_definition.is_union and bool(field_definition.is_subclass_of(msgspec.Struct))

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: SchemaCreator) -> Schema:
        """A stand-in of the right name."""
        return schema_creator.create_component_schema(field_definition, required=[], property_fields={})


class _Page(OpenAPIRenderPlugin):
    """The document for people, with its scripts and styles."""

    def render(
        self,
        request: Request[Any, Any, Any],  # noqa: ARG002  # the hook's signature is Litestar's
        openapi_schema: dict[str, Any],  # noqa: ARG002  # as above
    ) -> bytes:
        """The page; its script fetches the document."""
        return _PAGE.encode()

    def receive_router(self, router: Router) -> None:
        """Serve the page's own files beside it."""
        for name, media_type in _STATIC.items():
            router.register(_file(name, media_type))


class _Document(OpenAPIRenderPlugin):
    """The document beside the page, in place of the one that Litestar would serve there."""

    def render(
        self,
        request: Request[Any, Any, Any],
        openapi_schema: dict[str, Any],  # noqa: ARG002  # Litestar's part only; `document` has the whole
    ) -> bytes:
        """The whole document as JSON."""
        return _encoded(request.app)


def _file(name: str, media_type: str) -> HTTPRouteHandler:
    content = resources.files("server.console").joinpath("static", name).read_bytes()

    @get(f"/{name}", media_type=media_type, sync_to_thread=False)
    def serve() -> bytes:
        return content

    return serve


@get("/openapi.json", include_in_schema=False, sync_to_thread=False)
def openapi_json(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The document."""
    return Response(_encoded(request.app), media_type="application/json")


def _encoded(app: Litestar) -> bytes:
    if "openapi" not in app.state:
        app.state.openapi = msgspec.json.encode(document(app))
    made: bytes = app.state.openapi
    return made


@get("/", include_in_schema=False, sync_to_thread=False)
def home() -> Redirect:
    """The operator console will be here; until then, the documentation."""
    return Redirect("/docs")


HANDLERS: list[HTTPRouteHandler] = [openapi_json, home]
