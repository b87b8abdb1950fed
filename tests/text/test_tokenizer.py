"""Tokenizer: as the model's own, with its bytes, its template and its refusals."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.text.answers.finding import OWN, known_formats
from serve_app.text.chat_template import render
from serve_app.text.errors import NoChatTemplate, TextError
from serve_app.text.pieces import Pieces, readable
from serve_app.text.tokenizer import Tokenizer
from tests.text.tokenizers import byte_level, sentencepiece_like, writing

TOKENIZERS = {
    "byte_level": Tokenizer(byte_level()),
    "sentencepiece_like": Tokenizer(sentencepiece_like()),
}
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}{{ mood }}"
)


def _chatty() -> Tokenizer:
    inner = byte_level()
    inner.chat_template = TEMPLATE
    return Tokenizer(inner)


def test_a_directory_gives_the_same_tokenizer(tmp_path: Path) -> None:
    inner = byte_level()
    inner.save_pretrained(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode("hello world €") == inner.encode("hello world €")
    assert loaded.eos_token_id == 2


def test_a_directory_without_a_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=tmp_path.name):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(("kind", "first"), [("byte_level", ""), ("sentencepiece_like", " ")])
@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="▁"), min_size=1, max_size=30))
def test_the_bytes_of_the_tokens_joined_are_the_text(kind: str, first: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    joined = b"".join(tokenizer.piece(token) for token in tokenizer.encode(text))
    assert joined.decode() == first + text


def test_half_a_character_is_written_as_bytes() -> None:
    assert readable("€".encode()[:2]) == "bytes:\\xe2\\x82"
    assert readable("é".encode()) == "é"


def test_special_tokens_stand_for_themselves() -> None:
    tokenizer = Tokenizer(byte_level())
    assert [tokenizer.readable(token) for token in (1, 2)] == ["<s>", "</s>"]
    assert tokenizer.decode([1, 2]) == ""
    assert tokenizer.decode([1, 2], skip_special=False) == "<s></s>"


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
@given(tokens=st.lists(st.integers(0, 420), max_size=12), skip=st.booleans())
def test_tokens_are_decoded_as_transformers_does(kind: str, tokens: list[int], skip: bool) -> None:
    tokenizer = TOKENIZERS[kind]
    expected = tokenizer._tokenizer.decode(
        tokens, skip_special_tokens=skip, clean_up_tokenization_spaces=False
    )
    assert tokenizer.decode(tokens, skip_special=skip) == expected


def test_a_class_that_decodes_in_its_own_way_is_left_to_it() -> None:
    inner = byte_level()
    kind = type(inner)
    inner.__class__ = type("Own", (kind,), {"_decode": lambda *_, **__: "own"})
    assert Tokenizer(inner).decode([300]) == "own"


def test_an_id_outside_the_vocabulary_stands_for_nothing() -> None:
    assert Tokenizer(byte_level()).piece(10**6) == b""


def test_a_decoder_without_marks_leaves_symbols_alone() -> None:
    assert Pieces(None, frozenset()).to_bytes(5, "abc") == b"abc"


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(TextError, match="Unicode"):
        Tokenizer(byte_level()).encode("\ud800")


def test_a_conversation_ends_where_the_answer_begins() -> None:
    template = _chatty().chat_template()
    text = render(template, [{"role": "user", "content": "hello", "name": None}], {"mood": "!"})
    assert text == "<s>user: hello</s>assistant:!"


@pytest.mark.parametrize("variables", [{}, {"mood": "!"}, {"add_generation_prompt": False}])
def test_a_conversation_is_written_as_transformers_writes_it(variables: dict[str, Any]) -> None:
    inner = byte_level()
    inner.chat_template = TEMPLATE + "{{ bos_token }}{{ eos_token }}"
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "€"}]
    options = {"add_generation_prompt": True, **variables}
    expected = inner.apply_chat_template(messages, tokenize=False, **options)
    assert render(Tokenizer(inner).chat_template(), messages, variables) == expected


def test_a_model_without_a_template_says_so() -> None:
    with pytest.raises(NoChatTemplate, match="/v1/completions"):
        Tokenizer(byte_level()).chat_template()


def test_of_several_templates_one_must_be_the_default() -> None:
    inner = byte_level()
    inner.chat_template = {"a": "x", "default": TEMPLATE}
    assert Tokenizer(inner).chat_template().source == TEMPLATE
    inner.chat_template = {"a": "x", "b": "y"}
    with pytest.raises(TextError, match="no default"):
        Tokenizer(inner).chat_template()


def test_a_models_own_response_template_goes_before_one_of_ours(tmp_path: Path) -> None:
    inner = writing("hermes")
    assert Tokenizer(inner).form is known_formats()["hermes"]
    inner.response_template = {"start_anchor": "A", "fields": {"content": {}}}
    inner.save_pretrained(tmp_path)
    form = Tokenizer.load(tmp_path).form
    assert form is not None
    assert (form.name, form.has_calls) == (OWN, False)


def test_a_models_own_response_template_that_is_none_is_told_and_not_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inner = writing("hermes")
    inner.response_template = {"fields": 5}
    assert Tokenizer(inner).form is known_formats()["hermes"]
    assert "response template is not used" in caplog.text


def test_an_answer_has_the_special_tokens_that_its_format_is_written_in() -> None:
    tokenizer = Tokenizer(writing("gpt_oss"))
    tokens = tokenizer.encode("<s><|channel|>final<unused><|message|>x</s>", special=False)
    assert tokenizer.decode_answer(tokens) == "<|channel|>final<|message|>x"
    assert tokenizer.decode(tokens) == "finalx"
