"""A small real family: tiny checkpoints, and releases that consolidation makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM

from consolidation.pipeline import Recipe, consolidate
from consolidation.release import Registry
from consolidation.run.executor import LocalExecutor
from consolidation.sources.local_sources import local_models
from tests.support.checkpoints import byte_tokenizer, write_checkpoint

FAMILY = "tiny"
TOKENIZER: Any = byte_tokenizer()


@dataclass(frozen=True)
class TinyFamily:
    """Checkpoints under `root/<model>`, releases under `root/registry`."""

    root: Path

    @property
    def url(self) -> str:
        return str(self.root / "registry")

    @property
    def registry(self) -> Registry:
        return Registry(self.url, FAMILY)

    def make_models(self, names: Sequence[str]) -> None:
        for seed, name in enumerate(names):
            write_checkpoint(self.root / name, "mixtral", seed)

    def publish(self, names: Sequence[str], channel: str | None = None) -> str:
        """A lossless release."""
        recipe = Recipe(
            family=FAMILY,
            registry=self.url,
            models=local_models({name: self.root / name for name in names}),
            channel=channel,
        )
        outcome = consolidate(recipe, executor=LocalExecutor(), progress=lambda _: None)
        assert outcome.release is not None
        return outcome.release

    def generate(self, model: str, prompt: Sequence[int], num: int) -> list[int]:
        """Greedy tokens of the original, by transformers."""
        original: Any = AutoModelForCausalLM.from_pretrained(self.root / model, dtype=torch.float32)
        with torch.no_grad():
            tokens = original.generate(
                torch.tensor([list(prompt)]), max_new_tokens=num, do_sample=False
            )
        return cast("list[int]", tokens[0, len(prompt) :].tolist())

    def logprobs(self, model: str, tokens: Sequence[int]) -> list[float]:
        """Of each token but the first, given those before it, by the original."""
        original: Any = AutoModelForCausalLM.from_pretrained(self.root / model, dtype=torch.float32)
        with torch.no_grad():
            logits = original(torch.tensor([list(tokens)])).logits[0]
        rows = torch.log_softmax(logits.float(), dim=-1)
        return [float(rows[i, token]) for i, token in enumerate(tokens[1:])]


def text_after(prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """What an answer of these tokens reads as; the end token is not shown."""
    shown = [token for token in tokens if token != TOKENIZER.eos_token_id]
    before = TOKENIZER.decode(list(prompt), skip_special_tokens=True)
    return cast(str, TOKENIZER.decode([*prompt, *shown], skip_special_tokens=True)[len(before) :])
