"""Encoder–decoders held whole, as stock transformers runs them, and windows for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.models.switch_transformers.modeling_switch_transformers import (
    SwitchTransformersTop1Router,
)

from consolidation.statistics.windows import Window
from tests.support.whole_models import load_original

START = 0
"""What the decoders of the tiny models begin with."""


def load_without_decoder_capacity(directory: Path) -> Any:
    """A checkpoint whose decoder has room for each token, as `generate()` gives it, one by one."""
    model = load_original(directory)
    for module in model.decoder.modules():
        if isinstance(module, SwitchTransformersTop1Router):
            module.expert_capacity = 1 << 20
    return model


def windows_of(*lengths: tuple[int, int], seed: int = 0) -> list[Window]:
    """Windows of random tokens, by the length of the source and of what is scored."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 300, (length,), generator=generator).tolist())

    return [Window((START, *drawn(scored)), 1, drawn(source)) for source, scored in lengths]


@torch.inference_mode()
def window_logits(model: Any, window: Window) -> torch.Tensor:
    """Logits that predict a window's scored tokens. -> (scored, V)"""
    tokens = torch.tensor([window.tokens])
    logits: torch.Tensor = model(
        input_ids=torch.tensor([window.source]), decoder_input_ids=tokens, use_cache=False
    ).logits[0]
    return logits[window.first_scored - 1 : -1]


@torch.inference_mode()
def generated(model: Any, source: Sequence[int], num_tokens: int) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens by transformers' own `generate()`, and the logits they came from. (T, V)"""
    found = model.generate(
        torch.tensor([source]),
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return found.sequences[0, 1:].tolist(), torch.cat(found.logits)
