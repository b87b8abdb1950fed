"""Arguments that were written as bare text get the types that the schema asks for."""

from typing import Any

import pytest

from serve_app.text.answers.argument_types import typed

DEFS = {"$defs": {"Day": {"enum": ["Mon", 2]}, "Loop": {"$ref": "#/$defs/Loop"}}}


@pytest.mark.parametrize(
    ("raw", "schema", "value"),
    [
        ("7", {"type": "string"}, "7"),
        ("7", {"type": "integer"}, 7),
        ("7.0", {"type": "integer"}, 7.0),
        ("7.5", {"type": "integer"}, "7.5"),
        ("7.5", {"type": "number"}, 7.5),
        (" 7 ", {"type": ["integer", "null"]}, 7),
        ("null", {"type": ["string", "null"]}, None),
        ("None", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, None),
        ("null", {"type": "string"}, "null"),
        ("True", {"type": "boolean"}, True),
        ("1", {"type": "boolean"}, "1"),
        ("[1, 2]", {"type": "array"}, [1, 2]),
        ('{"a": 1}', {"type": "object"}, {"a": 1}),
        ("[1", {"type": "array"}, "[1"),
        ('{"a": 1}', {"oneOf": [{"type": "string"}, {"type": "object"}]}, {"a": 1}),
        ("2", {"$ref": "#/$defs/Day"}, 2),
        ("Mon", {"$ref": "#/$defs/Day"}, "Mon"),
        ("x", {"$ref": "#/$defs/Loop"}, "x"),
        ("5", {"$ref": "http://x"}, 5),
        ("5", {}, 5),
        ("x y", {}, "x y"),
        ("5", None, "5"),
        ("1e999", {"type": "number"}, "1e999"),
        ("NaN", {}, "NaN"),
        ("true", {"const": True}, True),
        ("[" * 5000, {"type": "array"}, "[" * 5000),
    ],
)
def test_a_text_gets_the_type_that_its_schema_asks_for(raw: str, schema: Any, value: Any) -> None:
    found = typed(raw, schema, DEFS)
    assert found == value
    assert type(found) is type(value)
