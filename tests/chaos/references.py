"""What every model of every release must answer: greedy tokens of the originals. Asks no endpoint.

The originals are transformers' own models in float32, so a reference owes nothing to the engine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from serve_app.text.tokenizer import Tokenizer
from tests.serving.family import TOKENIZER, text_after

LONGEST = 96
"""Tokens of an answer at most."""
LEAST_MARGIN = 0.001
"""Logits by which the first token must lead the second: a reference ends before the first tie."""
_WORDS = Tokenizer(TOKENIZER)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to complete, or the user's message of a chat, and its tokens."""

    text: str
    is_chat: bool = False

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.text}]

    @property
    def tokens(self) -> list[int]:
        if not self.is_chat:
            return _WORDS.encode(self.text)
        tokens: list[int] = TOKENIZER.apply_chat_template(
            self.messages, add_generation_prompt=True, return_dict=False
        )
        return tokens


PROMPTS = (
    Prompt("hello world"),
    Prompt("The quick brown fox jumps over the lazy dog."),
    Prompt("hi", is_chat=True),
    Prompt("What is a pool of experts?", is_chat=True),
)


class References:
    """Answers by release, model and prompt. A release says which checkpoint each model is."""

    def __init__(self, root: Path, prompts: tuple[Prompt, ...] = PROMPTS) -> None:
        """root: where the checkpoints are, by name."""
        self._root = root
        self.prompts = prompts
        self._tokens: dict[tuple[str, Prompt], list[int]] = {}
        self._checkpoints: dict[str, Mapping[str, str]] = {}

    def add(self, release: str, checkpoints: Mapping[str, str]) -> None:
        """checkpoints: by model."""
        for checkpoint in checkpoints.values():
            self.compute(checkpoint)
        self._checkpoints[release] = dict(checkpoints)

    def compute(self, checkpoint: str) -> None:
        """Its answers, unless they are known: takes a second or more, and most of a core."""
        if (checkpoint, self.prompts[0]) not in self._tokens:
            self._answer(checkpoint)

    def shortest(self, model: str, prompt: Prompt) -> int:
        """How many tokens an answer may have, whatever release gives it."""
        known = [
            self._tokens[of[model], prompt] for of in self._checkpoints.values() if model in of
        ]
        return min(len(tokens) for tokens in known)

    def tokens(self, release: str, model: str, prompt: Prompt, length: int) -> list[int] | None:
        """The first tokens of the answer; None if no such release was added."""
        of = self._checkpoints.get(release)
        return None if of is None else self._tokens[of[model], prompt][:length]

    @torch.no_grad()
    def _answer(self, checkpoint: str) -> None:
        original: Any = AutoModelForCausalLM.from_pretrained(
            self._root / checkpoint, dtype=torch.float32
        )
        for prompt in self.prompts:
            tokens = prompt.tokens
            out = original.generate(
                torch.tensor([tokens]),
                attention_mask=torch.ones((1, len(tokens)), dtype=torch.int64),
                max_new_tokens=LONGEST,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                output_logits=True,
                return_dict_in_generate=True,
            )
            top = torch.cat(out.logits).topk(2, dim=-1).values  # (n, 2)
            ties = (top[:, 0] - top[:, 1] < LEAST_MARGIN).nonzero()
            length = int(ties[0]) if len(ties) else LONGEST
            self._tokens[checkpoint, prompt] = out.sequences[0, len(tokens) :][:length].tolist()


def readable(tokens: list[int]) -> list[str]:
    """Tokens as an answer's log-probabilities show them."""
    return [_WORDS.readable(token) for token in tokens]


def text_of(prompt: Prompt, tokens: list[int]) -> str:
    return text_after(prompt.tokens, tokens)
