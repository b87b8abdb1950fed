"""The tokenizer of random weights has a text for every token."""

from pathlib import Path
from typing import Any, cast

from serve_app.bench.weights.word_tokenizer import tokenizer_of
from serve_app.text.tokenizer import Tokenizer


def test_every_token_has_a_text_and_every_text_can_be_read(tmp_path: Path) -> None:
    cast(Any, tokenizer_of(2000)).save_pretrained(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    texts = [tokenizer.decode([token], skip_special=False) for token in range(2000)]
    assert all(texts)
    assert len(set(texts[259:])) == 2000 - 259
    assert tokenizer.decode(tokenizer.encode("naïve 🦊")) == "naïve 🦊"
