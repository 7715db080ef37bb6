"""The admin API: every plugin's ``admin_routes``, behind the stack's :class:`gwcore.ports.Authority`.

A request is authenticated before its body is read, permitted before its endpoint runs, and answered in the shape that
LiteLLM's clients read. There is no route without a permission, no CORS, no cookie: the credential is a header.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import orjson
import structlog
from pydantic import ValidationError
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from gwcore.errors import (
    AssemblyError,
    BadRequest,
    Forbidden,
    GatewayError,
    NotServed,
    PluginFault,
    TooLarge,
    Unauthenticated,
)
from gwcore.ports import AdminCall, AdminRoute, Authority, Caller, Page
from gwcore.reply import Send
from gwcore.wire.document import parse

MAX_BODY = 1 << 20
_log = structlog.get_logger("gwcore.admin")
_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_NUL = "the request holds a NUL character, which PostgreSQL keeps in no text"
_NOT_WORD = re.compile(r"\W+")
_SEGMENT = re.compile(r"\{(\w+)\}")
_TYPES = {Unauthenticated: "auth_error", Forbidden: "auth_error", NotServed: "not_found_error"}


class AdminApp:
    """An ASGI application: the admin API of one stack."""

    def __init__(self, routes: Iterable[tuple[str, AdminRoute]], authority: Authority) -> None:
        """``routes`` are pairs of a plugin's name and its route. Raises ``AssemblyError`` for a duplicate address."""
        self.authority = authority
        self.routes: dict[tuple[str, str], AdminRoute] = {}
        owners: dict[tuple[str, str], str] = {}
        described = AdminRoute("GET", "/openapi.json", "openapi:read", self._openapi, "This description.")
        for owner, route in (("gwcore", described), *routes):
            address = (route.method, _SEGMENT.sub("{}", route.path))
            if address in owners:
                raise AssemblyError(f"{route.method} {route.path} is offered by {owners[address]} and by {owner}")
            owners[address] = owner
            self.routes[route.method, route.path] = route
        # literal addresses before those with a {name}
        ordered = sorted(self.routes.values(), key=lambda route: "{" in route.path)
        self._table = [(Route(r.path, _Endpoint(self, r)), r) for r in ordered]
        self._ordered = ordered
        self._description: dict[str, Any] | None = None

    def serves(self, scope: MutableMapping[str, Any]) -> bool:
        """Whether an address of ours matches, with any method."""
        return any(route.matches(scope)[0] != Match.NONE for route, _ in self._table)

    async def knows(self, scope: MutableMapping[str, Any]) -> bool:
        """Whether the request's credential may see everything."""
        client = scope.get("client")
        try:
            caller = await self.authority.caller(scope["headers"], client[0] if client else None, scope["path"])
        except GatewayError:
            return False
        return caller.role in {"admin", "viewer"}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Send) -> None:
        """ASGI 3, HTTP only."""
        if scope["type"] != "http":
            return
        methods: set[str] = set()
        for matcher, route in self._table:
            match, child = matcher.matches(scope)
            if match == Match.NONE:
                continue
            if scope["method"] == route.method:
                scope.update(child)
                await matcher.app(scope, receive, send)
                return
            methods.add(route.method)
        hint = f"; this address takes {', '.join(sorted(methods))}" if methods else ""
        await _failed(NotServed(f"not an address of the admin API{hint}"))(scope, receive, send)

    async def _openapi(self, _call: AdminCall) -> Any:
        if self._description is None:  # 0.1 s of CPU, which no start and no reload should pay
            self._description = await asyncio.to_thread(_describe, self._ordered)
        return self._description


class _Endpoint:
    """One route as an ASGI application: authenticate, read, permit, run, answer."""

    def __init__(self, app: AdminApp, route: AdminRoute) -> None:
        self.app = app
        self.route = route

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Send) -> None:
        try:
            response = await self._answer(Request(scope, receive))
        except ValidationError as error:
            response = _invalid(error)
        except GatewayError as error:
            response = _failed(error)
        except Exception as error:  # an unexpected one is reported as a fault; its text may quote a body
            _log.error("unnamed exception", path=self.route.path, error=type(error).__name__)
            response = _failed(PluginFault())
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        authority, route = self.app.authority, self.route
        client = request.client.host if request.client else None
        caller = await authority.caller(request.scope["headers"], client, route.path)
        if any("\0" in text for text in (*request.path_params.values(), *request.query_params.values())):
            raise BadRequest(_NUL)
        call = AdminCall(caller, path=request.path_params, query=dict(request.query_params))
        await authority.permit(route, call)  # the endpoint, before a byte of the body is read; then the fields
        if route.Body is not None:
            raw = await _body(request)
            if _ESCAPED_NUL.search(raw):
                raise BadRequest(_NUL)
            call.body = route.Body.model_validate(parse(raw, unique=frozenset(route.Body.model_fields)))
            call.given = frozenset(call.body.model_fields_set)
            await authority.permit(route, call)
        answer = await route.endpoint(call)
        if route.method != "GET":
            _audit(caller, route)
        if isinstance(answer, Page):
            return Response(answer.body, headers={"cache-control": "no-store"}, media_type=answer.media_type)
        return _json(200, answer)


def _audit(caller: Caller, route: AdminRoute) -> None:
    _log.info("admin", by=caller.id, role=caller.role, did=route.permission, path=route.path)


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise TooLarge(f"the body is over {MAX_BODY} bytes")
        parts.append(part)
    return b"".join(parts)


def _json(status: int, document: Any, headers: Mapping[str, str] | None = None) -> Response:
    body = orjson.dumps(document, option=orjson.OPT_NON_STR_KEYS)
    return Response(body, status, {"cache-control": "no-store", **(headers or {})}, media_type="application/json")


def error_document(error: GatewayError) -> dict[str, Any]:
    """An error as LiteLLM's clients read it, in both of its shapes: ``error`` and ``detail``."""
    kind = next((t for known, t in _TYPES.items() if isinstance(error, known)), error.code)
    told = {"message": error.message, "type": kind, "param": None, "code": str(error.status)}
    return {"error": told, "detail": {"error": error.message}}


def _failed(error: GatewayError) -> Response:
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after)))
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    return _json(error.status, error_document(error), headers)


def _invalid(error: ValidationError) -> Response:
    # never the input: it may hold a key
    found = [
        {"loc": ["body", *one["loc"]], "msg": one["msg"].removeprefix("Value error, "), "type": one["type"]}
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    first = found[0]
    # what a whole body is refused for names its fields itself
    place = ".".join(map(str, first["loc"][1:]))
    refused = BadRequest(f"{place}: {first['msg']}" if place else str(first["msg"]))
    refused.status = 422
    document = error_document(refused)
    return _json(422, {**document, "detail": found})


# ── the description ──────────────────────────────────────────────────────────────────────────────────────────────────


def _describe(routes: Iterable[AdminRoute]) -> dict[str, Any]:
    """OpenAPI 3.1 of the routes."""
    listed = list(routes)
    bodies = [(body, "validation") for body in dict.fromkeys(r.Body for r in listed) if body is not None]
    named, schemas = models_json_schema(bodies, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]  # the literal
    paths: dict[str, dict[str, Any]] = {}
    for route in sorted(listed, key=lambda r: (r.path, r.method)):
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in _SEGMENT.findall(route.path)
        ] + [{"name": name, "in": "query", "schema": {"type": "string"}} for name in route.query]
        operation: dict[str, Any] = {
            "summary": route.summary,
            "operationId": route.method.lower() + _NOT_WORD.sub("_", route.path),
            "tags": [route.permission.partition(":")[0]],
            "x-permission": route.permission,
            "parameters": parameters,
            "responses": {
                "200": {"description": "done", "content": {route.media_type: {"schema": {}}}},
                "default": {
                    "description": "refused",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                },
            },
        }
        if route.Body is not None:
            schema = named[route.Body, "validation"]
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "gwcore admin API", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": {**schemas.get("$defs", {}), "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
