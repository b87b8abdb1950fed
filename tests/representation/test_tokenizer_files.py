"""A tokenizer is read from the files of its directory, and both halves refuse the same ones."""

import json
from pathlib import Path

import pytest

from consolidation.errors import Refused
from consolidation.statistics.text import Encoder
from representation.tokenizer_files import (
    TOKENIZER_FILES,
    UnreadableTokenizer,
    has_tokenizer,
    read_tokenizer,
)
from serve_app.text.errors import TextError
from serve_app.text.tokenizer import Tokenizer
from tests.support.checkpoints import byte_tokenizer


def test_what_a_tokenizer_writes_is_what_it_is_read_from(tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= set(TOKENIZER_FILES)
    assert has_tokenizer(tmp_path)
    assert read_tokenizer(tmp_path)("ab")["input_ids"] == byte_tokenizer()("ab")["input_ids"]


@pytest.mark.parametrize("damage", ["[", "{}", '{"model": 7}'])
def test_both_halves_refuse_a_damaged_one_in_the_same_words(tmp_path: Path, damage: str) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(damage)
    with pytest.raises(UnreadableTokenizer) as caught:
        read_tokenizer(tmp_path)
    with pytest.raises(Refused) as refused:
        Encoder(tmp_path, 320)
    with pytest.raises(TextError) as text_error:
        Tokenizer.load(tmp_path)
    assert str(caught.value) in str(refused.value)
    assert str(caught.value) in str(text_error.value)


def test_code_beside_a_tokenizer_is_never_run(tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    path.write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('was run')")
    with pytest.raises(UnreadableTokenizer, match="trust_remote_code"):
        read_tokenizer(tmp_path)
