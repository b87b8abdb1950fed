"""Calls a stock model with the tokens of a step, in one stack or in two. Computes no part."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from representation.architecture.anatomy import Anatomy
from representation.encoder_decoder.both_stacks import choose_outputs, is_encoder_decoder, run_both
from representation.encoder_decoder.sparse_blocks import SparseBlock, within_all
from serve_app.engine.attention.biases import PositionBias
from serve_app.engine.stacks.stacks import Stacks
from serve_app.engine.step.step import CurrentStep, StepView


def forward_of(anatomy: Anatomy, step: CurrentStep) -> Callable[[StepView], torch.Tensor]:
    """How to run a model with its leaves: a function that gives logits, (1, n, V)."""
    if is_encoder_decoder(anatomy.model):
        return _forward_of_both(anatomy, step)
    model: Any = anatomy.model

    def forward(view: StepView) -> torch.Tensor:
        out = model(
            input_ids=view.ids.unsqueeze(0),  # (1, T)
            position_ids=view.positions.unsqueeze(0),  # (1, T)
            use_cache=False,
            logits_to_keep=view.output_index,
        )
        logits: torch.Tensor = out.logits
        return logits

    return forward


def _forward_of_both(anatomy: Anatomy, step: CurrentStep) -> Callable[[StepView], torch.Tensor]:
    attach_blocks(anatomy, step)
    model: Any = anatomy.model
    choose_outputs(model, lambda: step.view.output_index)
    cross = next(path for path, kind in anatomy.kinds.items() if kind.sees == "encoder")
    shape, width = anatomy.attentions[cross], model.config.hidden_size
    table = model.get_input_embeddings().weight

    def forward(view: StepView) -> torch.Tensor:
        assert view.inputs is not None, "a step of an encoder and a decoder has no inputs"
        ids = view.inputs.ids.unsqueeze(0), view.ids.unsqueeze(0)  # (1, E), (1, T)
        nothing = torch.empty(
            (1, shape.kv_heads, 0, shape.key_dim), dtype=table.dtype, device=view.ids.device
        )
        logits: torch.Tensor = run_both(model, *ids, width, nothing).logits
        return logits

    return forward


def attach_biases(anatomy: Anatomy, stacks: Stacks) -> dict[str, PositionBias]:
    """The tables of biases, by the modules that have them. Stock code makes none any more."""
    owners = sorted({kind.bias for kind in anatomy.kinds.values() if kind.bias is not None})
    found = {path: PositionBias(stacks, path, anatomy.model.get_submodule(path)) for path in owners}
    nothing = torch.empty(0)
    for path in anatomy.attentions if found else ():
        module = anatomy.model.get_submodule(path)
        module.has_relative_attention_bias = True  # else its code makes one of zeros
        module.compute_bias = lambda *_, **__: nothing
    return found


def attach_blocks(anatomy: Anatomy, step: CurrentStep) -> None:
    """Let sparse blocks of encoders count the tokens of each input by themselves."""
    for module in anatomy.model.modules():
        if isinstance(module, SparseBlock) and module.within is not within_all:
            module.within = partial(
                _within_inputs, step, module.capacity, module.experts.num_experts
            )


def _within_inputs(
    step: CurrentStep, capacity: int, num_experts: int, index: torch.Tensor
) -> torch.Tensor:
    """Whether an expert still takes a token of its input. index: (1, E)  ->  (1, E) bool"""
    inputs = step.view.inputs
    assert inputs is not None, "an encoder runs in a step without inputs"
    keys = inputs.numbers * num_experts + index[0]  # (E,), by input and expert
    order = keys.argsort(stable=True)
    ordered = keys[order]
    first = torch.searchsorted(ordered, ordered)  # (E,), where those alike begin
    ranks = torch.arange(len(keys), device=keys.device) - first
    return torch.empty_like(order, dtype=torch.bool).index_copy_(0, order, ranks < capacity)[None]
