"""The OpenAPI document as one page of HTML, without scripts. Says nothing that is not in it."""

import importlib.resources
import json
from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined

from serve_app.api.openapi.document import Document

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""A Content-Security-Policy: the page fetches nothing, and runs nothing."""
_TEMPLATE = "docs.html.jinja"
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "minLength": "characters, at least",
    "maxLength": "characters, at most",
    "minItems": "items, at least",
    "maxItems": "items, at most",
    "pattern": "pattern",
}
"""Keywords of a schema that narrow it, in words."""


def page(document: Document) -> str:
    """The same document gives the same page."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(written=_written, kinds=_kinds, inner=_inner)
    template = importlib.resources.files(__package__) / "data" / _TEMPLATE
    routes = [
        (method.upper(), path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        title=document["info"]["title"],
        version=document["info"]["version"],
        has_keys=bool(document["components"]["securitySchemes"]),
        routes=routes,
        schemas=document["components"]["schemas"],
    )


def _written(value: object) -> str:
    """As JSON has it."""
    return json.dumps(value, ensure_ascii=False)


def _limited(word: str, schema: Mapping[str, Any]) -> str:
    """With what narrows a schema beside its type."""
    told = [
        f"{words} {_written(schema[name])}" for name, words in _LIMITS.items() if name in schema
    ]
    return f"{word} ({', '.join(told)})" if told else word


def _kinds(schema: object) -> list[tuple[str, str]]:
    """The alternatives of a schema, and what each is: `ref` a name of a schema, `value` a value as
    JSON has it, `list` or `map` of what is told next, `type` a word.
    """
    return list(dict.fromkeys(_told(schema)))


def _told(schema: object) -> Iterator[tuple[str, str]]:
    if not isinstance(schema, Mapping):
        yield "type", "anything" if schema else "nothing"
        return
    for part in ("anyOf", "oneOf"):
        if part in schema and "properties" not in schema:
            for each in schema[part]:
                yield from _told(each)
            return
    if "$ref" in schema:
        yield "ref", schema["$ref"].rpartition("/")[2]
    elif "const" in schema:
        yield "value", _written(schema["const"])
    elif "enum" in schema:
        yield from (("value", _written(value)) for value in schema["enum"])
    else:
        yield from _typed(schema)


def _typed(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    types = schema.get("type", "anything")
    for name in [types] if isinstance(types, str) else types:
        if name == "array" and "items" in schema:
            yield from ((f"list of {kind}", word) for kind, word in _told(schema["items"]))
        elif name == "object" and isinstance(schema.get("additionalProperties"), Mapping):
            rest = schema["additionalProperties"]
            is_open = "properties" not in schema
            yield from ((f"map of {kind}", word) for kind, word in _told(rest) if is_open)
            if not is_open:
                yield "type", name
        else:
            yield "type", _limited(name, schema)


def _inner(schema: object) -> Iterator[Mapping[str, Any]]:
    """Objects with fields of their own that have no name and stand within a schema."""
    if not isinstance(schema, Mapping):
        return
    if "properties" in schema:
        yield schema
        return
    for part in ("anyOf", "oneOf"):
        for each in schema.get(part, ()):
            yield from _inner(each)
    for part in ("items", "additionalProperties"):
        yield from _inner(schema.get(part))
