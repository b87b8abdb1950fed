"""Models held whole, in float32: the reference that models run a layer at a time are held to."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from consolidation.evaluation.golden_prompts import (
    COMPUTE_DTYPE,
    GOLDEN_PROMPT,
    GOLDEN_TOKENS,
    GOLDEN_TOP,
)
from consolidation.release import Golden, ReleaseReader
from consolidation.statistics.windows import Window
from consolidation.walk.computing import compute_by_products
from representation.architecture.config import config_of, context_limit
from representation.architecture.skeleton import meta_model
from tests.support.checkpoints import loaded


def load_original(directory: Path) -> Any:
    """A checkpoint, as transformers loads it."""
    model = loaded(directory)
    for tensor in (*model.parameters(), *model.buffers()):
        # Products of tensors that lie at odd places of a mapped file may differ in the last bit.
        tensor.data = tensor.data.clone()
    return model.eval()


def load_computing_alike(directory: Path) -> Any:
    """A checkpoint whole, whose products are those of models that are run a layer at a time."""
    model = load_original(directory)
    compute_by_products(model.requires_grad_(False))
    return model


def assemble(reader: ReleaseReader, name: str) -> Any:
    """One model of a release in transformers' own class."""
    model = reader.models[name]
    config = config_of(model.config)
    state = {key: tensor.float() for key, tensor in reader.read_backbone(name)}
    for layer, row in enumerate(model.expert_map):
        experts = [reader.expert(name, layer, index) for index in range(len(row))]
        for parameter in experts[0]:
            stacked = torch.stack([expert[parameter] for expert in experts])
            state[f"{reader.layers[layer].module}.{parameter}"] = stacked
    kind = type(meta_model(config, torch.float32, attention=None))  # else it would attend so too
    made, info = kind.from_pretrained(
        None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True
    )
    served = meta_model(config, torch.float32, attention=None).state_dict()
    assert not served.keys() & info["missing_keys"]
    assert not info["unexpected_keys"]
    return made.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """As models run a layer at a time: the number of threads may change the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
@torch.inference_mode()
def window_logits(model: Any, window: Window) -> torch.Tensor:
    """Logits that predict a window's scored tokens. -> (scored, V)"""
    logits: torch.Tensor = model(torch.tensor([window.tokens]), use_cache=False).logits[0]
    return logits[window.first_scored - 1 : -1]


@_one_thread()
@torch.inference_mode()
def golden_of(model: Any, window: Window) -> Golden:
    """What a model generates after the first tokens of a window, without a cache."""
    prompt = list(window.tokens[:GOLDEN_PROMPT])
    length = GOLDEN_PROMPT + GOLDEN_TOKENS
    tokens: list[int] = []
    top: list[tuple[tuple[int, float], ...]] = []
    for _ in range(min(length, context_limit(model.config) or length) - len(prompt)):
        logits = model(torch.tensor([prompt + tokens]), use_cache=False).logits[0, -1]
        values, order = torch.sort(logits.float(), descending=True, stable=True)
        pairs = zip(order[:GOLDEN_TOP].tolist(), values[:GOLDEN_TOP].tolist(), strict=True)
        top.append(tuple(pairs))
        tokens.append(int(order[0]))
    return Golden(prompt=tuple(prompt), tokens=tuple(tokens), top=tuple(top), dtype=COMPUTE_DTYPE)
