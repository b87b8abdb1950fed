"""Trains a small Switch Transformers family in the demo's manner. Scores and merges nothing.

The base repeats words. Each fine-tune starts from it, trains all weights, and does something else
with words.
"""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

from serve_app.demo import skills
from serve_app.demo.byte_tokenizer import (
    BOS,
    EOS,
    PAD,
    VOCABULARY,
    build_tokenizer,
    encode_answer,
    encode_prompt,
)

BASE = "base"
VARIANTS = ("cipher", "plural", "reverse", "spell")
"""Names of the demo's skills."""
IGNORED = -100
BATCH = 32
MOST_STEPS = {BASE: 3000}
STEPS = 1500
"""Of a fine-tune, at most."""
COOLDOWN = 150
CHECK_EVERY = 50
ENOUGH = 0.99
"""Share of the check words that must be right for the rate to begin to fall."""
RATE = 2e-3
GREEDY_TOKENS = 2 * skills.LONGEST + 4


FIELDS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 96,
    "d_kv": 24,
    "d_ff": 192,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_sparse_encoder_layers": 2,
    "num_sparse_decoder_layers": 2,
    "num_experts": 8,
    "expert_capacity": 64,
    "dropout_rate": 0.0,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
    "decoder_start_token_id": PAD,
}


def config() -> SwitchTransformersConfig:
    """2 + 2 layers, all of 8 experts, which have room for all tokens that come."""
    return SwitchTransformersConfig(**FIELDS)


def make_family(directory: Path, report: Callable[[str], None]) -> None:
    """Write `directory/<model>` for the base and each variant, in bfloat16."""
    torch.manual_seed(0)
    model = SwitchTransformersForConditionalGeneration(config())
    _train(model, BASE, report)
    _save(model, directory / BASE)
    for name in VARIANTS:
        model = SwitchTransformersForConditionalGeneration.from_pretrained(
            directory / BASE, dtype=torch.float32
        )
        _train(model, name, report)
        _save(model, directory / name)


def _save(model: SwitchTransformersForConditionalGeneration, directory: Path) -> None:
    cast(Any, copy.deepcopy(model)).to(torch.bfloat16).save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)


def _train(
    model: SwitchTransformersForConditionalGeneration, name: str, report: Callable[[str], None]
) -> None:
    random = Random(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    stop_at, step, loss = MOST_STEPS.get(name, STEPS), 0, math.nan
    while step < stop_at:
        share = min(1.0, (step + 1) / 50, (stop_at - step) / COOLDOWN)
        for group in optimizer.param_groups:
            group["lr"] = RATE * share
        loss = _step(model, optimizer, *rows(_pairs(random, name)))
        step += 1
        if step % CHECK_EVERY == 0 and step + COOLDOWN < stop_at:
            right = share_right(model, name, skills.CHECK)
            if right >= ENOUGH:
                stop_at = step + COOLDOWN
    right = share_right(model, name, skills.CHECK)
    report(f"{name}: {step} steps, loss {loss:.4f}, {right:.3f} of the check words are right")


def _pairs(random: Random, name: str) -> list[tuple[str, str]]:
    lengths = range(skills.SHORTEST, skills.LONGEST + 1)
    words = [skills.made_up_word(random, random.choice(lengths)) for _ in range(BATCH)]
    return [(skills.prompt(word), skills.skill(name).answer(word)) for word in words]


def rows(pairs: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor, Tensor]:
    """(prompt, answer) -> inputs (B, E), which of them are no padding (B, E), and labels (B, T)"""
    inputs = [encode_prompt(prompt) for prompt, _ in pairs]
    answers = [encode_answer(answer) for _, answer in pairs]
    width, length = max(map(len, inputs)), max(map(len, answers))
    ids = torch.tensor([[*row, *[PAD] * (width - len(row))] for row in inputs])
    labels = torch.tensor([[*row, *[IGNORED] * (length - len(row))] for row in answers])
    return ids, (ids != PAD).long(), labels


def _step(
    model: SwitchTransformersForConditionalGeneration,
    optimizer: torch.optim.Optimizer,
    ids: Tensor,
    mask: Tensor,
    labels: Tensor,
) -> float:
    model.train()
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    model.eval()
    return float(loss.item())


@torch.inference_mode()
def share_right(
    model: SwitchTransformersForConditionalGeneration, name: str, words: Sequence[str]
) -> float:
    """Of words that a model answers rightly, greedily."""
    ids, mask, _ = rows([(skills.prompt(word), "") for word in words])
    found = cast(Any, model).generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=GREEDY_TOKENS, do_sample=False
    )
    answers = [row[1:] for row in found.tolist()]
    ends = [row.index(EOS) if EOS in row else len(row) for row in answers]
    texts = [bytes(t for t in row[:end] if t < BOS) for row, end in zip(answers, ends, strict=True)]
    wanted = [skills.skill(name).answer(word).encode() for word in words]
    return sum(one == two for one, two in zip(texts, wanted, strict=True)) / len(words)
