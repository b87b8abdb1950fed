"""Gives arguments that a model wrote as bare text the types that the tool's schema asks for."""

import json
import math
from collections.abc import Mapping
from typing import Any

_MOST_REFERENCES = 16


def typed(raw: str, schema: Any, parameters: Mapping[str, Any]) -> Any:
    """raw: as it was written.   schema: of this argument.   parameters: the whole, for references.

    A text where a text may be, and what does not fit, stay as they are. Without a type in the
    schema, what is JSON is taken for that.
    """
    types = types_of(schema, parameters)
    if types == {"string"} or not isinstance(schema, Mapping):
        return raw
    try:
        value = json.loads(raw.strip(), parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        return _loose(raw, types)
    if not types or _kinds(value) & types:
        return value
    return _loose(raw, types)


def _finite(number: str) -> float:
    """What JSON can say again. Raises ValueError for infinity and NaN."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(number)
    return value


def _loose(raw: str, types: set[str]) -> Any:
    """What Python would write for a constant."""
    word = raw.strip().lower()
    if "boolean" in types and word in ("true", "false"):
        return word == "true"
    if "null" in types and word in ("null", "none"):
        return None
    return raw


def _kinds(value: Any) -> set[str]:
    """The types of JSON Schema that a value has."""
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int):
        return {"integer", "number"}
    if isinstance(value, float):
        return {"number", "integer"} if value.is_integer() else {"number"}
    if value is None:
        return {"null"}
    if isinstance(value, str):
        return {"string"}
    return {"array"} if isinstance(value, list) else {"object"}


def types_of(
    schema: Any, parameters: Mapping[str, Any], references: int = _MOST_REFERENCES
) -> set[str]:
    """Those that a schema allows, as far as it says so."""
    if not isinstance(schema, Mapping):
        return set()
    if "$ref" in schema:
        found = referred(schema["$ref"], parameters)
        return types_of(found, parameters, references - 1) if references else set()
    declared = schema.get("type")
    types = {declared} if isinstance(declared, str) else set()
    if isinstance(declared, list):
        types |= {each for each in declared if isinstance(each, str)}
    for union in ("anyOf", "oneOf", "allOf"):
        choices = schema.get(union)
        for choice in choices if isinstance(choices, list) else ():
            types |= types_of(choice, parameters, references)
    listed = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if not types and isinstance(listed, list):
        for value in listed:
            types |= _kinds(value)
    return types


def referred(reference: Any, parameters: Mapping[str, Any]) -> Any:
    """`#/$defs/Name` in the parameters."""
    found: Any = parameters
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    for part in reference[2:].split("/"):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
