"""What choices are told, and what their text must be: `ChoiceText`, told the same at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from serve_app.protocol.messages import Conversation, Piece
from serve_app.text.choice_facts import TokenLogprob, Wanted
from serve_app.text.choice_text import ChoiceText
from serve_app.text.process import open_choice
from serve_app.text.tokenizer import Tokenizer
from tests.text.tokenizers import byte_level, sentencepiece_like, writing

RELEASE = "r1"
MODELS = ("bytes", "calls", "pieces")


@cache
def inner(model: str) -> Any:
    if model == "calls":
        return writing("hermes")
    return byte_level() if model == "bytes" else sentencepiece_like()


@cache
def tokenizer(model: str) -> Tokenizer:
    return Tokenizer(inner(model))


@cache
def _files(model: str) -> dict[str, bytes]:
    with TemporaryDirectory() as directory:
        inner(model).save_pretrained(directory)
        return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def write(model: str, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in _files(model).items():
        (directory / name).write_bytes(content)


def wanted(**change: Any) -> Wanted:
    plain: dict[str, Any] = {
        "echo": False,
        "logprobs": None,
        "stop": [],
        "min_tokens": 0,
        "skip_special_tokens": True,
        "answer": None,
    }
    return {**plain, **change}  # type: ignore[typeddict-item]


def chat(messages: list[dict[str, Any]], **variables: Any) -> Conversation:
    return {
        "messages": messages,
        "tools": [],
        "strict": [],
        "forced": None,
        "single": False,
        "variables": variables,
        "generation_prompt": True,
        "continues": False,
    }


@dataclass(frozen=True)
class Told:
    """A choice from its beginning to its end. finish: why the engine ends it at its last token."""

    model: str
    prompt: Sequence[int]
    tokens: Sequence[int]
    wanted: Wanted
    finish: str = "length"

    def prompt_logprobs(self) -> list[TokenLogprob | None] | None:
        """Of an echoed prompt, if log-probabilities were asked."""
        if self.wanted["logprobs"] is None:
            return None
        return [None, *(self._logprob(token, place) for place, token in enumerate(self.prompt[1:]))]

    def events(self) -> list[tuple[int, TokenLogprob | None, str | None]]:
        asked = self.wanted["logprobs"] is not None
        return [
            (
                token,
                self._logprob(token, place) if asked else None,
                self.finish if place == len(self.tokens) - 1 else None,
            )
            for place, token in enumerate(self.tokens)
        ]

    def expected(self, number: int) -> list[Piece]:
        text = ChoiceText(number, self.prompt, tokenizer(self.model), self.wanted)
        pieces = []
        if self.wanted["echo"]:
            logprobs, part = self.prompt_logprobs(), open_choice.PROMPT_PART
            for begin in range(0, len(self.prompt), part):
                num = len(self.prompt[begin : begin + part])
                more = None if logprobs is None else logprobs[begin : begin + num]
                pieces.append(text.echo(num) if more is None else text.add_prompt(more))
        for event in self.events():
            pieces.append(text.add(*event))
            if pieces[-1]["finish"] is not None:
                break
        return pieces

    def _logprob(self, token: int, place: int) -> TokenLogprob:
        top = tuple(((token + i) % 100, -0.5 - i) for i in range(self.wanted["logprobs"] or 0))
        return (-0.25 * place, top)
