"""The grammar of arguments that are a tag each: which there are, in which order, of which types.

A text stands in a tag as it is, anything else as JSON. `argument_types` reads them back.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.errors import BadGrammar
from serve_app.grammar.sources import found_in
from serve_app.text.answers.argument_types import referred, types_of
from serve_app.text.answers.response_format import Tags
from serve_app.text.constraints.grammar_making import Making

_ANY_KEY = r"/[A-Za-z0-9_.-]{1,64}/"
_KNOWN = frozenset(
    ("type", "properties", "required", "additionalProperties", "$defs", "definitions")
)
_SHARED = ("$defs", "definitions")
"""What references lead to."""
_SAY_NOTHING = frozenset(("title", "description", "$schema", "$id", "$comment", "examples"))


@dataclass(frozen=True, slots=True)
class _Text:
    """Any text that has this length and matches this."""

    fewest: int = 0
    most: int | None = None
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class _Literal:
    """Just this text."""

    text: str


@dataclass(frozen=True, slots=True)
class _Json:
    """schema: as JSON."""

    schema: str


_Alternative = _Text | _Literal | _Json


class TaggedArguments:
    """Those of one function. parameters: a schema of an object."""

    def __init__(self, made: Making, tags: Tags, parameters: Mapping[str, Any]) -> None:
        self._made = made
        self._tags = tags
        self._parameters = parameters

    def rule(self, name: str) -> str:
        """The name of the rule. Raises BadGrammar for a schema that is none, and for what tags
        cannot be held to.
        """
        self._made.source("json", self._parameters)
        for keyword in self._parameters:
            if keyword not in _KNOWN | _SAY_NOTHING:
                raise BadGrammar(
                    f"'{keyword}' of the whole cannot be held to where arguments are tags"
                )
        properties = self._parameters.get("properties", {})
        required = self._parameters.get("required", ())
        others = self._parameters.get("additionalProperties", True)
        named = {**properties, **{key: others for key in required if key not in properties}}
        parts = []
        for number, (key, schema) in enumerate(named.items()):
            tag = self._tag(f"{name}x{number}", key, schema)
            parts.append(tag if key in required else f"{tag}?")
        if isinstance(others, Mapping) or (others and not named):
            value = self._value(f"{name}others", None, others)
            key = f"{self._made.literal(self._tags.before_key)} {_ANY_KEY}"
            after = self._made.literal(self._tags.after_key)
            parts.append(self._made.rule(f"{name}other", f"{key} {after} {value}") + "*")
        return self._made.rule(name, " ".join(parts) or '""')

    def _tag(self, name: str, key: str, schema: Any) -> str:
        if not self._tags.reads(key, "x"):
            raise BadGrammar(f"the parameter {key!r} cannot be written as a tag of this format")
        before = self._made.literal(self._tags.before_key + key + self._tags.after_key)
        return self._made.rule(name, f"{before} {self._value(f'{name}v', key, schema)}")

    def _value(self, name: str, key: str | None, schema: Any) -> str:
        """With what ends the tag."""
        found = list(dict.fromkeys(self._alternatives(schema)))
        between = self._made.literal(self._tags.between)
        texts = [each for each in found if isinstance(each, _Text)]
        if texts:  # a text may look like all others
            [text] = texts if len(found) == 1 else [_Text()]
            return f"{self._text(name, text)} {between}"
        told = [self._told(f"{name}{number}", key, each) for number, each in enumerate(found)]
        return f"({' | '.join(told)}) {self._made.literal(self._tags.after_value)} {between}"

    def _alternatives(self, schema: Any, depth: int = 16) -> Iterator[_Alternative]:
        if not isinstance(schema, Mapping) or not depth:
            yield _Text()
            return
        if "$ref" in schema:
            yield from self._alternatives(referred(schema["$ref"], self._parameters), depth - 1)
            return
        for union in ("anyOf", "oneOf"):
            if union in schema:
                for each in schema[union]:
                    yield from self._alternatives(each, depth - 1)
                return
        if "const" in schema or "enum" in schema:
            for value in schema.get("enum", [schema.get("const")]):
                yield _Literal(value if isinstance(value, str) else json.dumps(value))
            return
        types = types_of(schema, self._parameters)
        if types == {"string"}:
            yield _Text(schema.get("minLength", 0), schema.get("maxLength"), schema.get("pattern"))
        elif not types or "string" in types:
            yield _Text()
        else:
            shared = {key: self._parameters[key] for key in _SHARED if key in self._parameters}
            yield _Json(json.dumps({**shared, **schema}))

    def _told(self, name: str, key: str | None, what: _Alternative) -> str:
        if isinstance(what, _Literal):
            if not self._tags.reads(key or "key", what.text):
                raise BadGrammar(f"{what.text!r} cannot be written in a tag of this format")
            return self._made.literal(what.text) or '""'
        assert isinstance(what, _Json)
        return self._made.other(name, "json", json.loads(what.schema))

    def _text(self, name: str, text: _Text) -> str:
        """Up to what ends the value."""
        end = self._tags.after_value.lstrip("\n")  # a line break in front of it may be missing
        if text == _Text():
            return self._made.until(name, end)
        most = "" if text.most is None else text.most
        parts = [f"/(?s:.{{{text.fewest},{most}}})/"]
        if text.pattern is not None:
            parts.append(found_in(text.pattern))
        parts.append(f"~/(?s:.*){_escaped(end)}(?s:.*)/")
        if not self._tags.reads("key", "\nx\n"):
            parts += [r"~/\n(?s:.*)/", r"~/(?s:.*)\n/"]
        terminal = self._made.rule(name.upper(), " & ".join(parts))
        return self._made.until(name, self._tags.after_value, terminal)


def _escaped(text: str) -> str:
    """Within a pattern between slashes."""
    return re.escape(text).replace("/", r"\/")
