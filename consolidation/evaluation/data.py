"""What a model is measured on: its task's prompts, and windows of its text. Runs no model."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from consolidation.checkpoints.checkpoint import Checkpoint
from consolidation.errors import Refused
from consolidation.statistics.text import CalibrationFile, Encoder, read_documents
from consolidation.statistics.windows import (
    Window,
    check_prompts,
    document_windows,
    encoder_of,
    longest_window,
)
from representation.text_fields import text_fields

NUM_ITEMS = 200
NUM_WINDOWS = 16
MAX_ANSWER = 3
"""At most this many tokens answer a task's prompt."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a task: the prompt's tokens, and the right word.

    source: the prompt of an encoder–decoder, whose decoder's own prompt is a token to start with.
    """

    prompt: tuple[int, ...]
    word: str
    source: tuple[int, ...] = ()

    def window(self, answer: Sequence[int]) -> Window:
        """The question with an answer, which is scored."""
        return Window((*self.prompt, *answer), len(self.prompt), self.source)


@dataclass(frozen=True, slots=True)
class ModelData:
    """Everything that one model is measured on, in its own tokens. Has a task, a text or both.

    `stops` are the tokens that end an answer. `directory` and `vocab_size` are for its tokenizer.
    """

    directory: Path
    vocab_size: int
    task: tuple[Item, ...] = ()
    text: tuple[Window, ...] = ()
    stops: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Files:
    """The contents of the files given for models, already checked."""

    tasks: Mapping[str, CalibrationFile]
    texts: Mapping[str, CalibrationFile]

    @property
    def models(self) -> tuple[str, ...]:
        """The models to measure, sorted."""
        return tuple(sorted({*self.tasks, *self.texts}))


def read_files(tasks: Mapping[str, Path], texts: Mapping[str, Path]) -> Files:
    """Read every file whole. Raises `Refused` with the file, and the line if one is wrong."""
    read_tasks = {}
    for model, path in tasks.items():
        what = f"task of model {model!r}:"
        if path.suffix != ".jsonl":
            raise Refused(f"{what} {path} is not a .jsonl file")
        file = read_tasks[model] = read_documents(path, what)
        for number, document in enumerate(file.documents, start=1):
            if not document.text.split():
                raise Refused(f"{what} {path}, item {number}: its completion contains no word")
    read_texts = {}
    for model, path in texts.items():
        read_texts[model] = read_documents(path, f"text of model {model!r}:")
    return Files(read_tasks, read_texts)


def check_models(
    files: Files, originals: Collection[str], models: Collection[str], whose: str
) -> None:
    """Raise `Refused` unless every measured model is one of `models` and has its original. `whose`
    says in messages to what `models` belong.
    """
    for what, names in (("a task or text", files.models), ("an original", originals)):
        for name in names:
            if name not in models:
                there = ", ".join(sorted(models))
                raise Refused(
                    f"{whose} has no model {name!r}, but {what} is given for it; it has {there}"
                )
    for name in files.models:
        if name not in originals:
            raise Refused(f"model {name!r} has a task or text, but its original is not given")


def check_all_originals(originals: Collection[str], models: Collection[str], whose: str) -> None:
    """Raise `Refused` unless every model of `models` has its original. Bytes can be compared with a
    release's only if a method holds as many models.
    """
    missing = ", ".join(repr(name) for name in sorted(models) if name not in originals)
    if missing:
        raise Refused(f"baselines hold all models of {whose}: originals of {missing} are not given")


def encode(
    files: Files,
    checkpoints: Mapping[str, Checkpoint],
    *,
    items: int = NUM_ITEMS,
    windows: int = NUM_WINDOWS,
) -> dict[str, ModelData]:
    """The first `items` of each task and `windows` of each text, in its own model's tokens.

    Raises `Refused` if a tokenizer is missing or does not fit, or if a text is too short.
    """
    return {
        name: _encode(name, files, checkpoints[name], items=items, windows=windows)
        for name in files.models
    }


def _encode(
    name: str, files: Files, checkpoint: Checkpoint, *, items: int, windows: int
) -> ModelData:
    directory = checkpoint.tokenizer_directory
    encoder = encoder_of(checkpoint)
    for kind in (files.tasks, files.texts):
        if name in kind:
            check_prompts(kind[name], encoder)
    task: tuple[Item, ...] = ()
    text: tuple[Window, ...] = ()
    if name in files.tasks:
        if not encoder.can_decode:
            raise Refused(
                f"model {name!r} has a task, but there is no tokenizer in {directory} "
                "to read its answers with"
            )
        task = _items(files.tasks[name], encoder, checkpoint.context_length, items)
    if name in files.texts:
        text = _windows(files.texts[name], encoder, longest_window(checkpoint), windows)
        if not text:
            raise Refused(f"text of model {name!r}: {files.texts[name].name} has no token to score")
    return ModelData(directory, checkpoint.vocab_size, task, text, _stops(checkpoint))


def _items(
    file: CalibrationFile, encoder: Encoder, context: int | None, limit: int
) -> tuple[Item, ...]:
    """Prompts after the beginning-of-text token; a prompt that is too long keeps its end."""
    begin = encoder.begin()
    found = []
    for document in file.documents[:limit]:
        word = document.text.split()[0]
        if encoder.beginning:
            source = encoder.encode_source(document.prompt, context)
            found.append(Item(encoder.beginning, word, source))
            continue
        tokens = encoder.encode(document.prompt)
        if context is not None:
            room = max(1, context - MAX_ANSWER - len(begin))
            tokens = tokens[max(0, len(tokens) - room) :]
        if not begin and not tokens:
            raise Refused(
                f"{file.name}: a prompt has no tokens, and its tokenizer adds none at the beginning"
            )
        found.append(Item((*begin, *tokens), word))
    return tuple(found)


def _windows(
    file: CalibrationFile, encoder: Encoder, length: int, limit: int
) -> tuple[Window, ...]:
    """The first windows of the text itself, one after another, with no token before them.

    Of pairs, and for an encoder–decoder, the windows are those of calibration.
    """
    if not file.documents[0].running or encoder.beginning:
        found = (w for one in file.documents for w in document_windows(one, encoder, length))
        return tuple(islice((w for w in found if len(w.tokens) > w.first_scored), limit))
    (document,) = file.documents
    tokens = encoder.encode(document.text)
    cut = [tokens[start : start + length] for start in range(0, len(tokens), length)]
    return tuple(Window(tuple(part), 1) for part in cut[:limit] if len(part) > 1)


def _stops(checkpoint: Checkpoint) -> tuple[int, ...]:
    for config in (checkpoint.generation_config, text_fields(checkpoint.config)):
        found: Any = config.get("eos_token_id")
        if found is not None:
            return tuple(found) if isinstance(found, list) else (int(found),)
    return ()
