"""Arguments that are tags: what masks let through is read as a call that fits its schema."""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jsonschema
import pytest

from serve_app.errors import BadParameters
from serve_app.grammar.following import Following
from serve_app.grammar.vocabulary import Grammar, Vocabulary, checked_source
from serve_app.protocol.messages import Conversation
from serve_app.text.answers.answer_parser import AnswerParser
from serve_app.text.answers.finding import known_formats
from serve_app.text.answers.response_format import Tags
from serve_app.text.constraints.answer_grammar import Written, answer_grammar

FORMS = known_formats()
TAGGED = sorted(
    name
    for name, form in FORMS.items()
    if form.forced and form.forced.held and form.forced.held.tags
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 2, "maxLength": 6},
        "days": {"enum": [1, 2, 3]},
        "metric": {"type": "boolean"},
        "unit": {"anyOf": [{"enum": ["c", "f"]}, {"type": "null"}]},
        "hours": {"type": "array", "items": {"type": "integer", "maximum": 23}, "maxItems": 2},
        "note": {"type": "string"},
        "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]$"},
        "at": {"$ref": "#/$defs/At"},
        "other": {"type": ["string", "null"]},
    },
    "required": ["city", "days", "metric", "hours", "code", "at"],
    "additionalProperties": False,
    "$defs": {
        "At": {
            "type": "object",
            "properties": {"x": {"type": "integer"}},
            "required": ["x"],
            "additionalProperties": False,
        }
    },
}
LIKELY = b'<>/abcdefgAB12" \n}]{[:,'
"""Bytes that close soon, or look as if they did."""
LONGEST = 4000


def grammar_of(
    name: str, schema: Mapping[str, Any], *, marks: Mapping[str, int], **how: Any
) -> tuple[list[bytes], Grammar]:
    tool = {"type": "function", "function": {"name": "add", "parameters": schema}}
    chat = {"messages": [], "tools": [tool], "strict": [], "single": True, **how}
    source = answer_grammar(
        Written(FORMS[name], marks), None, cast(Conversation, chat), "", checked_source
    )
    assert source is not None
    closing = tags_of(name).after_value.strip()
    texts = [*marks, *([] if closing in marks else [closing])]  # so that texts end some time
    tokens = [*(bytes([byte]) for byte in range(256)), *(text.encode() for text in texts)]
    return tokens, Vocabulary(tokens, marks.values()).compile(source)


def tags_of(name: str) -> Tags:
    forced = FORMS[name].forced
    assert forced is not None
    assert forced.held is not None
    assert forced.held.tags is not None
    return forced.held.tags


def begun_by(name: str) -> str:
    forced = FORMS[name].forced
    assert forced is not None
    return f"{forced.open}add{forced.after_name}"


def random_answer(tokens: Sequence[bytes], grammar: Grammar, seed: int) -> str:
    """Of bytes and marks that the masks let through."""
    choice, row, answer = random.Random(seed), Following(grammar, (), 0), b""
    for number in range(LONGEST):
        bits = row.matcher.compute_bitmask()
        allowed = [at for at in range(len(tokens) + 1) if bits[at // 8] >> at % 8 & 1]
        likely = [at for at in allowed if at >= 256 or at in LIKELY]
        token = choice.choice(likely or allowed)
        if token == len(tokens):
            return answer.decode()
        answer += tokens[token]
        row.take(number, token)
        assert row.lost is None
        if row.is_over:
            return answer.decode()
    raise AssertionError(f"no end after {answer!r}")


def read(name: str, begun: str, answer: str, schema: Any) -> tuple[str, Any, str]:
    """The only call of an answer, and the content beside it."""
    parser = AnswerParser(FORMS[name], begun, {"add": schema})
    parts = [parser.feed(answer), parser.end()]
    deltas = [delta for part in parts for delta in part.calls]
    assert {delta["index"] for delta in deltas} == {0}
    arguments = "".join(delta["arguments"] for delta in deltas)
    return str(deltas[0]["name"]), json.loads(arguments), "".join(part.content for part in parts)


@pytest.mark.parametrize("has_marks", [False, True], ids=["text", "tokens"])
@pytest.mark.parametrize("name", TAGGED)
def test_what_masks_let_through_is_read_as_a_call_that_fits(name: str, has_marks: bool) -> None:
    marks = {tags_of(name).after_value.strip(): 256} if has_marks else {}
    begun = begun_by(name)
    tokens, grammar = grammar_of(name, SCHEMA, marks=marks, forced="add")
    for seed in range(4):
        answer = random_answer(tokens, grammar, seed)
        called, arguments, content = read(name, begun, answer, SCHEMA)
        assert (called, content) == ("add", "")
        jsonschema.validate(arguments, SCHEMA)


@pytest.mark.parametrize("name", TAGGED)
@pytest.mark.parametrize(
    ("schema", "keys"),
    [
        ({"type": "object"}, None),
        ({"type": "object", "properties": {}, "additionalProperties": False}, set()),
        ({"properties": {"a": {}}, "required": ["a"]}, {"a"}),
        ({"required": ["b"], "additionalProperties": {"type": "integer"}}, None),
    ],
)
def test_arguments_without_a_name_are_as_the_schema_says(
    name: str, schema: dict[str, Any], keys: set[str] | None
) -> None:
    tokens, grammar = grammar_of(name, schema, marks={}, forced="add")
    _, arguments, _ = read(name, begun_by(name), random_answer(tokens, grammar, 3), schema)
    jsonschema.validate(arguments, {"type": "object", **schema})
    assert keys is None or set(arguments) == keys


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"properties": {"a>\n": {}}}, "the parameter 'a>"),
        ({"properties": {"a": {"enum": ["</parameter>"]}}}, "cannot be written in a tag"),
        ({"anyOf": [{"properties": {}}]}, "'anyOf' of the whole"),
        ({"properties": {"a": {"type": "x"}}}, "Invalid type"),
    ],
)
def test_what_tags_cannot_say_is_refused_with_the_functions_name(
    schema: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadParameters, match=f"function 'add': .*{says}"):
        grammar_of("qwen3_coder", schema, marks={}, forced="add")
