"""The demo's tokenizer, as it is built and as it is read from a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from serve_app.demo import byte_tokenizer
from serve_app.demo.byte_tokenizer import (
    build_tokenizer,
    decode_answer,
    encode_answer,
    encode_prompt,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(directory)
    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


@given(text=st.text())
def test_any_text_goes_in_and_out_whole(tokenizer: Any, text: str) -> None:
    tokens = tokenizer.encode(text)
    assert tokens == encode_prompt(text)
    assert tokenizer.decode(tokens, skip_special_tokens=True) == text


@given(text=st.text())
def test_answers_end_with_the_end_token(text: str) -> None:
    tokens = encode_answer(text)
    assert tokens[-1] == byte_tokenizer.EOS
    assert decode_answer([*tokens, byte_tokenizer.PAD, 65]) == text


def test_special_tokens_are_the_model_s(tokenizer: Any) -> None:
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        byte_tokenizer.BOS,
        byte_tokenizer.EOS,
        byte_tokenizer.PAD,
    )
    assert len(tokenizer) <= byte_tokenizer.VOCABULARY


def test_a_chat_message_becomes_the_prompt_that_was_trained(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "?"}, {"role": "user", "content": "table"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert tokenizer.encode(text, add_special_tokens=False) == encode_prompt("table:")
