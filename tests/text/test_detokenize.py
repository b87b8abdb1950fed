"""Detokenizer: whole characters, nothing lost, nothing twice."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.text.detokenize import Detokenizer
from serve_app.text.tokenizer import Tokenizer
from tests.text.tokenizers import byte_level, sentencepiece_like

TOKENIZERS = {
    "byte_level": Tokenizer(byte_level()),
    "sentencepiece_like": Tokenizer(sentencepiece_like()),
}
TEXTS = st.text(
    st.one_of(
        st.sampled_from("the world of café ,.\n  "),
        st.characters(codec="utf-8", exclude_characters="\ufffd▁"),
        st.sampled_from("🦊€🇩🇪👩‍🚀漢"),
    ),
    max_size=80,
)


def _pieces(tokenizer: Tokenizer, tokens: Sequence[int], context: Sequence[int] = ()) -> list[str]:
    detokenizer = Detokenizer(tokenizer.decode, context)
    return [*(detokenizer.push(token) for token in tokens), detokenizer.flush()]


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_the_pieces_joined_are_the_decoded_whole(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    tokens = tokenizer.encode(text)
    pieces = _pieces(tokenizer, tokens)
    assert "".join(pieces) == tokenizer.decode(tokens)
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(prompt=TEXTS.filter(bool), answer=TEXTS)
def test_an_answer_continues_its_prompt(kind: str, prompt: str, answer: str) -> None:
    tokenizer = TOKENIZERS[kind]
    before, after = tokenizer.encode(prompt), tokenizer.encode(answer)
    joined = "".join(_pieces(tokenizer, after, before))
    assert tokenizer.decode(before) + joined == tokenizer.decode([*before, *after])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 399), max_size=120))
def test_any_tokens_of_a_byte_level_vocabulary_lose_nothing(tokens: list[int]) -> None:
    tokenizer = TOKENIZERS["byte_level"]
    assert "".join(_pieces(tokenizer, tokens)) == tokenizer.decode(tokens)


def test_half_a_character_is_held_back() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    tokens = tokenizer.encode("🦊")
    assert len(tokens) == 4
    assert _pieces(tokenizer, tokens) == ["", "", "", "🦊", ""]


def test_an_unfinished_character_is_shown_as_unknown_at_the_end() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    tokens = tokenizer.encode("a🦊")[:-1]
    assert "".join(_pieces(tokenizer, tokens)) == "a\ufffd"


def test_the_space_between_prompt_and_answer_is_kept() -> None:
    tokenizer = TOKENIZERS["sentencepiece_like"]
    prompt, answer = tokenizer.encode("the world"), tokenizer.encode("of dog")
    assert "".join(_pieces(tokenizer, answer, prompt)) == " of dog"


def test_skipped_special_tokens_do_not_swallow_a_space() -> None:
    tokenizer = TOKENIZERS["sentencepiece_like"]
    eos = tokenizer.eos_token_id
    assert eos is not None
    tokens = [*tokenizer.encode("the world"), *[eos] * 200, *tokenizer.encode("of dog")]
    assert "".join(_pieces(tokenizer, tokens)) == "the world of dog"


def test_the_cost_of_a_token_does_not_grow_with_the_text() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    longest = 0

    def decode(tokens: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(tokens))
        return tokenizer.decode(tokens)

    detokenizer = Detokenizer(decode)
    for tokens in ([200] * 500, tokenizer.encode("the world €" * 100), [2] * 300):
        for token in tokens:
            detokenizer.push(token)
    assert longest <= 100
