"""The files of a model's tokenizer: which they may be, and the tokenizer read from them.

Encodes nothing. What a text becomes, and what is done without a tokenizer, is decided by those
who ask: `consolidation.statistics.text`, `serve_app.text.tokenizer`.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

TEMPLATE = "chat_template.jinja"
TOKENIZER_FILES = (
    "added_tokens.json",
    TEMPLATE,
    "chat_template.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""All that a tokenizer may be made of, beside `additional_chat_templates/*.jinja`."""
MARKS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
"""One of these says that there is a tokenizer."""
ALONE = ("merges.txt", "sentencepiece.bpe.model", "spiece.model", "tekken.json", "vocab.txt")
"""These are no tokenizer without one of the others."""


class UnreadableTokenizer(Exception):
    """The files of a directory are no tokenizer that transformers can read."""


def has_tokenizer(directory: Path) -> bool:
    """Whether a checkpoint's directory has a tokenizer."""
    return any((directory / name).is_file() for name in MARKS)


def unusable_files(directory: Path) -> list[str]:
    """Files of tokenizers that transformers cannot read one from, where there is nothing else."""
    if has_tokenizer(directory):
        return []
    return [name for name in ALONE if (directory / name).is_file()]


def read_tokenizer(directory: Path) -> Any:
    """The tokenizer of a directory, from its own files alone; code beside them is never run.

    Raises: UnreadableTokenizer, with transformers' own words.
    """
    try:
        return AutoTokenizer.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers raises many classes for damaged files
        if (directory / "tokenizer.model").is_file() and find_spec("sentencepiece") is None:
            raise UnreadableTokenizer(
                "tokenizer.model is read by sentencepiece: pip install sentencepiece"
            ) from error
        raise UnreadableTokenizer(str(error)) from error
