"""Puts the OpenAPI document together. What each route does is in `operations`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from serve_app.api.access import LEFT_HEADERS, OPEN, needed
from serve_app.api.openapi import answer_shapes as shapes
from serve_app.api.openapi.operations import Operation, operations
from serve_app.api.requests.deadline import TIMEOUT_HEADER
from serve_app.api.statuses import HttpStatus
from serve_app.protocol.errors import ErrorCode

PATH = "/openapi.json"
_SCHEMAS = "#/components/schemas/{model}"
_JSON, _EVENTS = "application/json", "text/event-stream"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"
_KEYED: tuple[ErrorCode, ...] = ("invalid_api_key", "insufficient_permissions")
Document = dict[str, Any]


def document(routes: Iterable[tuple[str, str]], version: str, *, has_keys: bool) -> Document:
    """routes: methods and paths, as Starlette writes them.

    has_keys: whether the endpoint asks for keys. Raises KeyError for a route without an operation.
    """
    known, schemas = operations(), _Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for method, route in routes:
        path = re.sub(r":\w+}", "}", route)
        one = _operation(path, known[method, path], schemas, has_keys=has_keys)
        paths.setdefault(path, {})[method.lower()] = one
    schemas.of(shapes.Error)
    return {
        "openapi": "3.1.0",
        "info": {"title": "expertpool", "version": version},
        "paths": paths,
        "components": {"schemas": schemas.found, "securitySchemes": _SCHEMES if has_keys else {}},
    }


_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


class _Schemas:
    """The schemas of bodies, each once and by name."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def of(self, shape: Any) -> Document:
        """A reference to the schema, or the schema if it has no name."""
        whole = TypeAdapter(shape).json_schema(ref_template=_SCHEMAS)
        for part, schema in whole.pop("$defs", {}).items():
            assert self.found.setdefault(part, schema) == schema, f"two shapes are called {part}"
        name = getattr(shape, "__name__", "")
        if "properties" not in whole or not name:
            return whole
        self.found[name] = whole
        return {"$ref": _SCHEMAS.format(model=name)}


def _operation(path: str, operation: Operation, schemas: _Schemas, *, has_keys: bool) -> Document:
    named = re.findall(r"{(\w+)}", path)
    made: Document = {
        "summary": operation.summary,
        "parameters": [*map(_in_path, named), *_in_headers(operation)],
        "responses": _responses(path, operation, schemas, has_keys=has_keys),
    }
    if operation.body is not None:
        content = {_JSON: {"schema": schemas.of(operation.body)}}
        made["requestBody"] = {"required": True, "content": content}
    if has_keys:
        made["security"] = [{"bearer": []}, {"header": []}]
        scopes = " or ".join(sorted(needed(path)))
        if path in OPEN:
            made["security"].append({})
            made["description"] = "Needs no key; tells reasons to the scopes metrics and admin."
        else:
            made["description"] = f"Needs a key with the scope {scopes}."
    return made


def _in_path(name: str) -> Document:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _in_headers(operation: Operation) -> list[Document]:
    names = {"x-request-id": {"type": "string"}}
    if operation.takes_time:
        names[TIMEOUT_HEADER] = {"type": "number", "exclusiveMinimum": 0}  # type: ignore[dict-item]
    return [
        {"name": name, "in": "header", "required": False, "schema": schema}
        for name, schema in names.items()
    ]


def _responses(
    path: str, operation: Operation, schemas: _Schemas, *, has_keys: bool
) -> dict[str, Document]:
    made: dict[str, Document] = {}
    shape = operation.shape
    for status, answer in operation.answers.items():
        content: Document = {_METRICS: {"schema": {"type": "string"}}}
        if answer is not None:
            content = {_JSON: {"schema": schemas.of(answer)}}
        if operation.chunk is not None:
            content[_EVENTS] = {"schema": {"type": "string", "description": _said(operation)}}
            schemas.of(operation.chunk)
        made[str(status)] = _response(operation.summary, content, operation, has_keys=has_keys)
    for status, codes in _refusals(path, operation, has_keys=has_keys).items():
        if str(status) not in made:
            content = {_JSON: {"schema": schemas.of(operation.error)}}
            made[str(status)] = _response(", ".join(codes), content, operation, has_keys=has_keys)
            made[str(status)]["headers"] |= _headers_of([shape.statuses[code] for code in codes])
    return made


def _said(operation: Operation) -> str:
    """Of the events of a stream."""
    return f"Each event's data is a {operation.chunk.__name__}{operation.or_else}."


def _refusals(path: str, operation: Operation, *, has_keys: bool) -> Mapping[int, list[ErrorCode]]:
    """The codes of each status."""
    codes = list(operation.errors)
    if has_keys and path not in OPEN:
        codes += _KEYED
        codes += ["model_not_allowed"] if operation.of_model else []
    found: dict[int, list[ErrorCode]] = {}
    for code, status in operation.shape.statuses.items():
        if code in codes and (has_keys or status.number not in (401, 403)):
            found.setdefault(status.number, []).append(code)
    return found


def _response(words: str, content: Document, operation: Operation, *, has_keys: bool) -> Document:
    names = ["x-request-id", *filter(None, [operation.shape.id_header])]
    headers = {name: _header("The request's own, or a new one", required=True) for name in names}
    if has_keys:
        headers |= {name: _header("Where the tenant has such a limit") for name in LEFT_HEADERS}
    return {"description": words, "headers": headers, "content": content}


def _headers_of(statuses: Sequence[HttpStatus]) -> Document:
    found = {}
    if all(status.retry_after_s is not None for status in statuses):
        found["retry-after"] = _header("Seconds", required=True)
    if any(status.number == 401 for status in statuses):
        found["www-authenticate"] = _header("Bearer", required=True)
    return found


def _header(words: str, *, required: bool = False) -> Document:
    return {"description": words, "required": required, "schema": {"type": "string"}}
