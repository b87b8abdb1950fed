"""Calibration text: read, and cut into windows of tokens. Runs no model.

A `.txt` file is one running text. A `.jsonl` file has an object with `prompt` and `completion` on
each line; the completion is scored. Without any file, a small text in this package is used. A
checkpoint without a tokenizer (a generated one, say) gets the text's UTF-8 bytes as token ids,
modulo its vocabulary: arbitrary for the model, but the same on both sides of a comparison.
"""

import hashlib
import importlib.resources
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consolidation.checkpoints.checkpoint import Checkpoint
from consolidation.errors import Refused
from representation.tokenizer_files import (
    UnreadableTokenizer,
    has_tokenizer,
    read_tokenizer,
    unusable_files,
)

_log = logging.getLogger(__name__)

ENCODING = "utf-8-sig"
"""UTF-8, with or without a byte order mark."""
MAX_WINDOW = 512
MAX_TOKENS = 4096
LEAST_TOKENS = 3 * MAX_TOKENS // 4
"""Three eighths of what is used at most: plans were measured to be about as good with it."""
PROMPT_SHARE = 16
"""Tokens that a window may cost of the limit for each of its scored tokens: long prompts must not
use it up.
"""
LEAST_SHARE = 8
"""A window costs at least this part of its tokens: all of them are computed, scored or not."""


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


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens of one forward pass; those from `first_scored` on are predicted and scored."""

    tokens: tuple[int, ...]
    first_scored: int


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
            entry = json.loads(line)
            prompt, completion = entry["prompt"], entry["completion"]
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(
                f"{path}, line {number}: not an object with prompt and completion"
            ) from error
        if not isinstance(prompt, str) or not isinstance(completion, str) or not completion:
            raise Refused(f"{path}, line {number}: prompt and completion must be text, not empty")
        yield Document(prompt, completion, False)


class Encoder:
    """A model's own tokenizer, or bytes when its directory has none. Adds no special tokens."""

    def __init__(self, directory: Path, vocab_size: int) -> None:
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
        # Long texts are cut into windows later, so the tokenizer need not warn about length.
        tokens = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
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


def model_windows(
    files: Sequence[CalibrationFile], checkpoint: Checkpoint, *, max_tokens: int = MAX_TOKENS
) -> list[Window]:
    """Windows for one model, by its tokenizer and context length.

    Raises `Refused` when the tokenizer cannot be read or does not fit the model. Logs what files
    of a tokenizer are good for that is not one.
    """
    useless = unusable_files(checkpoint.tokenizer_directory)
    if useless:
        _log.warning(
            "%s: no tokenizer can be read from %s alone: text becomes the bytes of its characters, "
            "which the model was not trained on, so what is tuned and measured on it says little, "
            "and the release is asked in tokens only. A tokenizer.json beside it would do",
            checkpoint.directory,
            " and ".join(useless),
        )
    encoder = Encoder(checkpoint.tokenizer_directory, checkpoint.vocab_size)
    longest = min(MAX_WINDOW, checkpoint.context_length or MAX_WINDOW)
    return windows(files, encoder, max_window=longest, max_tokens=max_tokens)


@dataclass(frozen=True, slots=True)
class ModelWindows:
    """One model's windows: those for statistics, and those to score."""

    statistics: tuple[Window, ...]
    scored: tuple[Window, ...]

    def warn_of_little(self, model: str, num_experts: int) -> None:
        """Log what the windows are worth if they are few. num_experts: of a layer."""
        windows = {*self.statistics, *self.scored}
        num = sum(len(window.tokens) for window in windows)
        if num < LEAST_TOKENS:
            _log.warning(
                "model %r: there are only %d tokens of calibration text for %d experts a layer. "
                "What is tuned and measured on fewer than %d says little about other text",
                model,
                num,
                num_experts,
                LEAST_TOKENS,
            )


def parted(found: Sequence[Window]) -> ModelWindows:
    """Score every second window and use the others for statistics, so that nothing is tuned to
    what is measured. Fewer than three windows are all used for both.
    """
    if len(found) < 3:
        return ModelWindows(tuple(found), tuple(found))
    return ModelWindows(tuple(found[::2]), tuple(found[1::2]))


def windows(
    files: Sequence[CalibrationFile],
    encoder: Encoder,
    *,
    max_window: int = MAX_WINDOW,
    max_tokens: int = MAX_TOKENS,
) -> list[Window]:
    """Windows of at most `max_window` tokens; each file gets an equal part of `max_tokens`.

    Every window begins with the tokenizer's beginning-of-text token, if there is one. A pair that
    is too long loses the beginning of its prompt, then the end of its completion.
    """
    found = []
    begin = encoder.begin()
    for file in files:
        left = max_tokens // len(files)
        for document in file.documents:
            for window in _document_windows(document, encoder, begin, max_window):
                tokens = window.tokens[:left]
                if len(tokens) > window.first_scored:
                    found.append(Window(tokens, window.first_scored))
                    num_scored = len(tokens) - window.first_scored
                    cost = max(PROMPT_SHARE * num_scored, len(tokens) // LEAST_SHARE)
                    left -= min(len(tokens), cost)
            if left < 2:
                break
    if not found:
        raise Refused("the calibration text is too short to score a single token")
    return found


def _document_windows(
    document: Document, encoder: Encoder, begin: list[int], max_window: int
) -> Iterator[Window]:
    tokens = encoder.encode(document.text)
    if document.running:
        step = max_window - len(begin)
        for start in range(0, len(tokens), step):
            yield Window((*begin, *tokens[start : start + step]), 1)
        return
    prompt = [*begin, *encoder.encode(document.prompt)]
    tokens = tokens[: max_window - 1]
    prompt = prompt[max(0, len(prompt) + len(tokens) - max_window) :]
    yield Window((*prompt, *tokens), max(1, len(prompt)))
