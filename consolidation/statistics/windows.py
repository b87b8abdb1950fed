"""Windows: the tokens of one forward pass, cut from text by a model's tokenizer. Runs no model.

An encoder–decoder reads prompts with its encoder and completions with its decoder. Of running text
its encoder gets the first half of each window, and its decoder goes on.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from consolidation.checkpoints.checkpoint import Checkpoint
from consolidation.errors import Refused
from consolidation.statistics.text import CalibrationFile, Document, Encoder
from representation.tokenizer_files import unusable_files

_log = logging.getLogger(__name__)

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
class Window:
    """Tokens of one forward pass; those from `first_scored` on are predicted and scored.

    source: what the encoder reads of an encoder–decoder, whose decoder has the tokens; else empty.
    """

    tokens: tuple[int, ...]
    first_scored: int
    source: tuple[int, ...] = ()

    @property
    def num_tokens(self) -> int:
        """All that are computed."""
        return len(self.source) + len(self.tokens)

    @property
    def work(self) -> float:
        """As many tokens, each through all layers: an encoder's go through half of them."""
        return self.num_tokens / 2 if self.source else self.num_tokens


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
    encoder = encoder_of(checkpoint)
    for file in files:
        check_prompts(file, encoder)
    return windows(files, encoder, max_window=longest_window(checkpoint), max_tokens=max_tokens)


def encoder_of(checkpoint: Checkpoint) -> Encoder:
    """By the checkpoint's tokenizer. Raises `Refused` if it cannot be read."""
    return Encoder(checkpoint.tokenizer_directory, checkpoint.vocab_size, checkpoint.beginning)


def check_prompts(file: CalibrationFile, encoder: Encoder) -> None:
    """Raise `Refused` for a prompt that leaves an encoder without a token to read."""
    pairs = () if not encoder.beginning or file.documents[0].running else file.documents
    for number, document in enumerate(pairs, start=1):
        if not document.prompt.strip() and not encoder.encode_source(document.prompt, None):
            raise Refused(
                f"{file.name}, item {number}: its prompt is empty, "
                "and the model's encoder needs a token to read"
            )


def longest_window(checkpoint: Checkpoint) -> int:
    """The most tokens of a window, of its source and of the rest alike."""
    return min(MAX_WINDOW, checkpoint.context_length or MAX_WINDOW)


@dataclass(frozen=True, slots=True)
class ModelWindows:
    """One model's windows: those for statistics, and those to score."""

    statistics: tuple[Window, ...]
    scored: tuple[Window, ...]

    def warn_of_little(self, model: str, num_experts: int) -> None:
        """Log what the windows are worth if they are few. num_experts: of a layer."""
        windows = {*self.statistics, *self.scored}
        num = sum(window.num_tokens for window in windows)
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
    is too long loses the beginning of its prompt, then the end of its completion. For an
    encoder–decoder, see `_windows_with_source`.
    """
    found = []
    for file in files:
        left = max_tokens // len(files)
        for document in file.documents:
            for window in document_windows(document, encoder, max_window):
                tokens = window.tokens[:left]
                if len(tokens) > window.first_scored:
                    cut = replace(window, tokens=tokens)
                    found.append(cut)
                    num_scored = len(tokens) - window.first_scored
                    cost = max(PROMPT_SHARE * num_scored, cut.num_tokens // LEAST_SHARE)
                    left -= min(cut.num_tokens, cost)
            if left < 2:
                break
    if not found:
        raise Refused("the calibration text is too short to score a single token")
    return found


def document_windows(document: Document, encoder: Encoder, max_window: int) -> Iterator[Window]:
    """The windows of one document; some may have nothing to score."""
    if encoder.beginning:
        yield from _windows_with_source(document, encoder, max_window)
        return
    begin, tokens = encoder.begin(), encoder.encode(document.text)
    if document.running:
        step = max_window - len(begin)
        for start in range(0, len(tokens), step):
            yield Window((*begin, *tokens[start : start + step]), 1)
        return
    prompt = [*begin, *encoder.encode(document.prompt)]
    tokens = tokens[: max_window - 1]
    prompt = prompt[max(0, len(prompt) + len(tokens) - max_window) :]
    yield Window((*prompt, *tokens), max(1, len(prompt)))


def _windows_with_source(document: Document, encoder: Encoder, max_window: int) -> Iterator[Window]:
    """Of an encoder–decoder: a pair's prompt and completion, both cut at their ends, and the end
    that the tokenizer puts after each; or halves of a running text.
    """
    first, tokens = encoder.beginning, encoder.encode(document.text)
    if not document.running:
        own = [*tokens, *encoder.end()][: max_window - 1]
        source = encoder.encode_source(document.prompt, max_window)
        yield Window((*first, *own), len(first), source)
        return
    for start in range(0, len(tokens), max_window):
        part = tokens[start : start + max_window]
        half = (len(part) + 1) // 2
        source = (*encoder.begin(), *part[:half], *encoder.end())
        yield Window((*first, *part[half:]), len(first), source)
