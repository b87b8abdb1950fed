"""Which tokens may come, and what becomes of an answer that takes them."""

import json
from typing import Any

import numpy as np
import pytest

from serve_app.errors import BadGrammar
from serve_app.grammar.following import Following
from serve_app.grammar.masks import MaskMaker
from serve_app.grammar.sources import json_rule, source_of
from serve_app.grammar.vocabulary import Vocabulary, checked_source

BYTES = [bytes([byte]) for byte in range(256)]
MARK, END, OTHER_END = 256, 257, 258
VOCABULARY = Vocabulary([*BYTES, b"<mark>", b"</s>", b"<|eot|>"], [MARK, END, OTHER_END])
MASKS = MaskMaker(2)


def following(source: str, *, stops: tuple[int, ...] = (END,), min_tokens: int = 0) -> Following:
    return Following(VOCABULARY.compile(source), frozenset(stops), min_tokens)


def allowed(*rows: Following) -> list[set[int]]:
    words = MASKS.begin(rows).words()
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
    return [set(row.nonzero()[0].tolist()) for row in bits]


def take(row: Following, text: str) -> Following:
    for token in text.encode():
        row.take(row.num_taken, token)
    return row


def test_what_may_come_follows_from_what_has_come() -> None:
    row = following(source_of("choice", ["yes", "no"]))
    assert allowed(row) == [{ord("y"), ord("n")}]
    assert allowed(take(row, "y")) == [{ord("e")}]


def test_an_end_may_come_only_where_the_grammar_accepts() -> None:
    row = following(source_of("choice", ["a", "ab"]), stops=(END, OTHER_END))
    assert allowed(row) == [{ord("a")}]
    assert allowed(take(row, "a")) == [{ord("b"), END, OTHER_END}]


def test_an_end_may_come_only_after_the_least_number_of_tokens() -> None:
    row = following(source_of("regex", "a*"), min_tokens=2)
    assert allowed(row) == [{ord("a")}]
    assert allowed(take(row, "aa")) == [{ord("a"), END}]


def test_an_answer_is_over_when_nothing_may_follow() -> None:
    row = following(source_of("json", {"const": 7}), min_tokens=99)
    assert not row.is_over
    assert take(row, "7").is_over
    assert row.lost is None


def test_an_answer_is_over_at_its_stop() -> None:
    row = take(following(source_of("choice", ["a", "ab"])), "a")
    row.take(1, END)
    assert row.is_over


def test_a_token_counts_once() -> None:
    row = following(source_of("choice", ["aab"]))
    row.take(0, ord("a"))
    row.take(0, ord("a"))
    assert row.num_taken == 1
    assert allowed(row) == [{ord("a")}]


def test_a_token_that_may_not_come_loses_the_answer() -> None:
    row = take(following(source_of("choice", ["yes"])), "x")
    assert row.lost is not None
    assert not row.is_over


def test_rows_that_are_over_or_lost_disturb_no_other() -> None:
    lost = take(following(source_of("choice", ["yes"])), "x")
    over = take(following(source_of("choice", ["yes"])), "yes")
    other = following(source_of("choice", ["yes"]))
    masks = allowed(lost, other, over)
    assert masks[1] == {ord("y")}
    assert len(masks[0]) == len(masks[2]) == 288


def test_vocabularies_of_several_sizes_stand_side_by_side() -> None:
    small = Vocabulary(BYTES[:128], [])
    row = Following(small.compile(source_of("choice", ["yes"])), frozenset(), 0)
    assert allowed(following(source_of("choice", ["no"])), row) == [{ord("n")}, {ord("y")}]


def test_a_token_whose_bytes_are_no_text_comes_only_where_it_is_named() -> None:
    text = following(source_of("json", {"type": "string"}))
    assert MARK not in allowed(take(text, '"'))[0]
    assert allowed(following(f"start: <[{MARK}]>")) == [{MARK}]


def test_json_is_written_as_people_write_it() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"type": "integer"}}},
        "required": ["a"],
    }
    value = {"a": [1, 20]}
    for text in (json.dumps(value), json.dumps(value, indent=4), '{"a":[1,20]}'):
        row = take(following(source_of("json", schema)), text)
        assert row.lost is None
        assert row.is_over, text


def test_an_expression_matches_all_of_the_answer_anchored_or_not() -> None:
    for pattern in ("a{2}", "^a{2}$"):
        assert take(following(source_of("regex", pattern)), "aa").is_over
    assert allowed(take(following(source_of("regex", r"a\$")), "a")) == [{ord("$")}]


def test_digits_of_an_expression_are_ascii() -> None:
    assert allowed(following(source_of("regex", r"\d"))) == [set(b"0123456789")]


def test_a_grammar_may_be_lark_or_gbnf() -> None:
    for grammar in ('start: "a" | "b"', 'root ::= "a" | "b"'):
        assert allowed(following(source_of("grammar", grammar))) == [set(b"ab")]


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("json", {"properties": {"a": {"not": {}}}}, ["not", "at #/properties/a/not"]),
        ("json", {"properties": {"a": {"format": "x"}}}, ["format: x", "at #/properties/a/format"]),
        ("json", {"items": {"type": "strin"}}, ["type: strin", "at #/items/type"]),
        ("json", {"$ref": "#/$defs/x"}, ["'/$defs/x' does not exist"]),
        ("json", {"a": 1, "oneOf": [{"type": "number"}, {"type": "integer"}]}, ["at #/oneOf"]),
        ("json", {"x-guidance": {"lenient": True}}, ["x-guidance"]),
        ("json", False, ["no JSON object"]),
        ("regex", "(", ["unclosed group"]),
        ("regex", "(?=a)b", ["look-around"]),
        ("grammar", "start: other", ['unknown name: "other"']),
        ("grammar", "root ::= (", ["neither Lark nor GBNF"]),
        ("grammar", "start: <|im_end|>", ["unknown special token"]),
    ],
)
def test_what_cannot_be_compiled_is_refused_with_its_part(
    kind: str, value: Any, words: list[str]
) -> None:
    with pytest.raises(BadGrammar) as refused:
        checked_source(kind, value)
    for each in words:
        assert each in str(refused.value)
    assert "x-guidance" in words or "whitespace_pattern" not in str(refused.value)


def test_a_schema_may_be_true() -> None:
    assert json_rule(True) == json_rule({})
