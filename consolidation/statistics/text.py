"""Calibration text: read, and turned into tokens. Cuts no windows, and runs no model.

A `.txt` file is one running text. A `.jsonl` file has an object with `prompt` and `completion` on
each line; the completion is scored. Without any file, a small text in this package is used. A
checkpoint without a tokenizer (a generated one, say) gets the text's UTF-8 bytes as token ids,
modulo its vocabulary: arbitrary for the model, but the same on both sides of a comparison.
"""

import hashlib
import importlib.resources
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consolidation.errors import Refused
from representation.json_text import parse_json
from representation.tokenizer_files import (
    UnreadableTokenizer,
    has_tokenizer,
    read_tokenizer,
)

ENCODING = "utf-8-sig"
"""UTF-8, with or without a byte order mark."""


@dataclass(frozen=True, slots=True)
class Document:
    """A scored text and the prompt before it. Running text has no prompt."""

    prompt: str
    text: str
    running: bool


@dataclass(frozen=True, slots=True)
class CalibrationFile:
    """The documents of one file, with its name and digest for the manifest."""

    name: str
    digest: str
    documents: tuple[Document, ...]


def read_calibration(paths: Sequence[Path]) -> tuple[CalibrationFile, ...]:
    """Read the files; without any, the text in this package. Raises `Refused`."""
    if not paths:
        default = importlib.resources.files(__package__) / "data" / "calibration.txt"
        return (_text_file("default", default.read_bytes(), "the calibration text"),)
    return tuple(read_documents(path, "calibration file") for path in paths)


def read_documents(path: Path, what: str) -> CalibrationFile:
    """Read a `.txt` or `.jsonl` file. `Refused` names `what` it is, its path, and the line."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Refused(f"cannot read {what} {path}: {error.strerror}") from error
    if path.suffix not in {".txt", ".jsonl"}:
        raise Refused(f"{what} {path} is neither .txt nor .jsonl")
    try:
        if path.suffix == ".txt":
            return _text_file(path.name, data, f"{what} {path}")
        documents = tuple(_pairs(path, data.decode(ENCODING)))
    except UnicodeDecodeError as error:
        raise Refused(f"{what} {path} is not UTF-8: {error}") from error
    if not documents:
        raise Refused(f"{what} {path} is empty")
    return CalibrationFile(path.name, hashlib.sha256(data).hexdigest(), documents)


def _text_file(name: str, data: bytes, what: str) -> CalibrationFile:
    text = data.decode(ENCODING)
    if not text.strip():
        raise Refused(f"{what} is empty")
    return CalibrationFile(name, hashlib.sha256(data).hexdigest(), (Document("", text, True),))


def _pairs(path: Path, text: str) -> Iterator[Document]:
    # Not `splitlines`: it also splits at characters that JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
            prompt, completion = entry["prompt"], entry["completion"]
        except (ValueError, KeyError, TypeError) as error:
            why = f": {error}" if isinstance(error, ValueError) else ""
            raise Refused(
                f"{path}, line {number}: not an object with prompt and completion{why}"
            ) from error
        if not isinstance(prompt, str) or not isinstance(completion, str) or not completion:
            raise Refused(f"{path}, line {number}: prompt and completion must be text, not empty")
        yield Document(prompt, completion, False)


class Encoder:
    """A model's own tokenizer, or bytes when its directory has none. Adds no special tokens.

    beginning: what the decoder of an encoder–decoder begins with; empty for a decoder alone.
    """

    def __init__(self, directory: Path, vocab_size: int, beginning: tuple[int, ...] = ()) -> None:
        self.beginning = beginning
        self._directory = directory
        self._vocab_size = vocab_size
        self._tokenizer: Any = None
        if has_tokenizer(directory):
            try:
                self._tokenizer = read_tokenizer(directory)
            except UnreadableTokenizer as error:
                raise Refused(f"{directory}: the tokenizer cannot be read: {error}") from error

    def begin(self) -> list[int]:
        """The tokenizer's beginning-of-text token, if it has one."""
        token = getattr(self._tokenizer, "bos_token_id", None)
        return [] if token is None else [int(token)]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. Raises `Refused` for ids the model does not have."""
        if self._tokenizer is None:
            return [byte % self._vocab_size for byte in text.encode()]
        return self._tokens(text, special=False)

    def encode_source(self, text: str, longest: int | None) -> tuple[int, ...]:
        """What an encoder reads of a prompt: with the tokenizer's special tokens, as it is asked.

        What is too long loses its end, since such models are told what to do at the beginning.
        Empty where nothing is left to read.
        """
        plain = self.encode(text)
        whole = plain if self._tokenizer is None else self._tokens(text, special=True)
        after = _end_of(whole, plain)
        if longest is None or len(whole) <= longest:
            return tuple(whole)
        return (*whole[: longest - len(after)], *after)

    def end(self) -> list[int]:
        """What the tokenizer puts after a text, and a decoder with an encoder so ends with."""
        if self._tokenizer is None:
            return []
        return _end_of(self._tokens("a", special=True), self._tokens("a", special=False))

    def _tokens(self, text: str, *, special: bool) -> list[int]:
        # Long texts are cut into windows later, so the tokenizer need not warn about length.
        tokens = self._tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        if tokens and max(tokens) >= self._vocab_size:
            raise Refused(
                f"{self._directory}: the tokenizer gives token {max(tokens)}; "
                f"the model knows {self._vocab_size}"
            )
        return [int(token) for token in tokens]

    @property
    def can_decode(self) -> bool:
        """Whether tokens can be decoded: bytes modulo a vocabulary cannot."""
        return self._tokenizer is not None

    def decode(self, tokens: Sequence[int]) -> str:
        """Decode tokens, skipping special ones; only where `can_decode`."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))


def _end_of(whole: Sequence[int], plain: Sequence[int]) -> list[int]:
    """The tokens of the whole that stand after the plain ones within it."""
    for first in range(len(whole) - len(plain) + 1):
        if list(whole[first : first + len(plain)]) == list(plain):
            return list(whole[first + len(plain) :])
    return []
