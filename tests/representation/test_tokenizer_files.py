"""A tokenizer is read from the files of its directory, and both halves refuse the same ones."""

import io
import json
from pathlib import Path

import pytest

from consolidation.errors import Refused
from consolidation.statistics.text import Encoder
from representation import tokenizer_files
from representation.tokenizer_files import (
    TOKENIZER_FILES,
    UnreadableTokenizer,
    has_tokenizer,
    read_tokenizer,
    unusable_files,
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


def write_sentencepiece(directory: Path) -> None:
    """`tokenizer.model` and nothing else, trained on a few words."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["hello world and hello words"] * 20),
        model_writer=model,
        vocab_size=24,
        model_type="bpe",
        minloglevel=2,
    )
    (directory / "tokenizer.model").write_bytes(model.getvalue())


def test_a_sentencepiece_model_alone_is_a_tokenizer(tmp_path: Path) -> None:
    write_sentencepiece(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mixtral"}')
    assert has_tokenizer(tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer("hello words")["input_ids"]).strip() == "hello words"
    assert Tokenizer.load(tmp_path).encode("hello words") == tokenizer("hello words")["input_ids"]


def test_a_sentencepiece_model_without_sentencepiece_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a")
    (tmp_path / "config.json").write_text('{"model_type": "mixtral"}')
    monkeypatch.setattr(tokenizer_files, "find_spec", lambda name: None)
    with pytest.raises(UnreadableTokenizer, match="pip install sentencepiece"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(("files", "useless"), [((), []), (("tekken.json",), ["tekken.json"])])
def test_files_that_are_no_tokenizer_alone_are_told(
    tmp_path: Path, files: tuple[str, ...], useless: list[str]
) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    assert not has_tokenizer(tmp_path)
    assert unusable_files(tmp_path) == useless
    byte_tokenizer().save_pretrained(tmp_path)
    assert unusable_files(tmp_path) == []
