"""The fewest tokens of a text are never more than it has, and refuse what is far too long."""

import json
import unicodedata
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from serve_app.text.errors import TooManyTokens
from serve_app.text.fewest_tokens import FewestTokens
from serve_app.text.tokenizer import Tokenizer
from tests.support.checkpoints import byte_tokenizer
from tests.text.tokenizers import CORPUS, byte_level, sentencepiece_like, writing


def _normalizing(*kinds: Any) -> Any:
    inner = byte_level()
    inner.backend_tokenizer.normalizer = normalizers.Sequence(list(kinds))
    return inner


def _swallowing() -> Any:
    """A special token takes the white space around it."""
    inner = byte_level()
    inner.add_special_tokens(
        {"additional_special_tokens": [AddedToken("<mask>", lstrip=True, rstrip=True)]}
    )
    return inner


def _unigram(symbols: list[str]) -> Any:
    inner = byte_level()
    pieces = [("<unk>", 0.0), *((symbol, -float(len(symbol) < 2)) for symbol in symbols)]
    made = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    return type(inner)(tokenizer_object=made)


KINDS = {
    "bytes": byte_tokenizer(),
    "byte_level": byte_level(),
    "composing": _normalizing(normalizers.NFC()),
    "folding": _normalizing(normalizers.NFKC(), normalizers.Replace(" ", "▁")),
    "sentencepiece_like": sentencepiece_like(),
    "swallowing": _swallowing(),
    "unigram": _unigram(["▁", "▁the", "a", "b", "ab", "abab", "é", "が", "the"]),
    "with markers": writing("hermes"),
}
FEWEST = {
    kind: FewestTokens.of_json(json.loads(inner.backend_tokenizer.to_str()))
    for kind, inner in KINDS.items()
}
_JOINING = "éが한ᾂ"
_PARTS = [
    *("the quick", " brown", "aaaa", "abab", "    ", "\n\n\t", "<s>", "</s>", " <mask> ", "▁▁"),
    *("<tool_call>", *_JOINING, *(unicodedata.normalize("NFD", each) for each in _JOINING)),
    *"ﬁﷺ▁日🙂\u11ab\u3099\u00a0\u0378",
]
TEXTS = st.lists(st.sampled_from(_PARTS) | st.text(max_size=6), max_size=30).map("".join)


@pytest.mark.parametrize("kind", sorted(KINDS))
@settings(max_examples=60, deadline=None)
@given(text=TEXTS.filter(lambda text: text.encode(errors="replace").decode() == text))
def test_no_text_has_fewer_tokens_than_are_counted(kind: str, text: str) -> None:
    fewest = FEWEST[kind]
    assert fewest is not None
    tokens = KINDS[kind](text, add_special_tokens=False)["input_ids"]
    assert fewest.count(text, 10**9) <= len(tokens)
    weights = fewest.of_bytes()
    assert sum(weights[byte] for byte in text.encode()) - 1 <= len(tokens)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_text_of_one_token_again_and_again_has_as_many_as_are_counted(kind: str) -> None:
    """Where the sum is exact, rounding must not make it more."""
    fewest, inner = FEWEST[kind], KINDS[kind]
    assert fewest is not None
    symbols = inner.get_vocab()
    longest = max((each for each in symbols if each.isalpha() and each.isascii()), key=len)
    assert fewest.count(longest * 5000, 10**9) <= len(inner(longest * 5000)["input_ids"])


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"unigram"}))
def test_at_least_a_twentieth_of_the_tokens_of_plain_text_are_counted(kind: str) -> None:
    fewest = FEWEST[kind]
    assert fewest is not None
    text = " ".join(CORPUS * 50)
    num = len(KINDS[kind](text)["input_ids"])
    assert fewest.count(text, 10**9) >= num / 20
    weights = fewest.of_bytes()
    assert sum(weights[byte] for byte in text.encode()) >= num / 20


def test_counting_ends_where_it_is_enough() -> None:
    fewest = FEWEST["byte_level"]
    assert fewest is not None
    text = CORPUS[0] * 100_000
    assert 1000 < fewest.count(text, 1000) < fewest.count(text, 10**9) / 10


@pytest.mark.parametrize(
    "change",
    [
        normalizers.Strip(),
        normalizers.Lowercase(),
        normalizers.NFD(),
        normalizers.Replace(Regex(" {2,}"), " "),
        normalizers.Replace("ab", "a"),
    ],
)
def test_nothing_is_counted_where_a_normalizer_may_shorten_texts(change: Any) -> None:
    inner = _normalizing(change)
    assert FewestTokens.of_json(json.loads(inner.backend_tokenizer.to_str())) is None


def test_nothing_is_counted_where_what_splits_a_text_leaves_some_out() -> None:
    inner = byte_level()
    for splitter in (
        pre_tokenizers.Whitespace(),
        pre_tokenizers.Split(Regex(r"\s"), "removed"),
    ):
        inner.backend_tokenizer.pre_tokenizer = splitter
        assert FewestTokens.of_json(json.loads(inner.backend_tokenizer.to_str())) is None


def test_a_character_becomes_what_replaces_it_before_it_is_looked_up() -> None:
    inner = _normalizing(normalizers.Replace("x", "the the"))
    fewest = FewestTokens.of_json(json.loads(inner.backend_tokenizer.to_str()))
    assert fewest is not None
    assert 10 < fewest.count("x" * 100, 10**9) <= len(inner("x" * 100)["input_ids"])


def test_a_text_that_is_certainly_too_long_is_refused_before_it_is_encoded() -> None:
    inner = byte_level()
    tokenizer = Tokenizer(inner)
    with pytest.raises(TooManyTokens, match=r"^at least \d+$"):
        tokenizer.encode("the " * 10_000, most=100)
    exact = tokenizer.encode("the " * 10)
    assert tokenizer.encode("the " * 10, most=len(exact)) == exact
    with pytest.raises(TooManyTokens, match=f"^{len(exact)}$"):
        tokenizer.encode("the " * 10, most=len(exact) - 1)
