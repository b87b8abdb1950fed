"""Rewrites the sparse blocks of Switch Transformers, so that they go through the experts interface.

transformers keeps the experts of these blocks in a list, and its router both scores tokens and
counts them. Here experts are stacked, and counting is a part of its own, since who is counted
together is known only to whoever runs the block. Everything else works with these blocks as with
those of any other model. (https://arxiv.org/abs/2101.03961, section 2.2)
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.core_model_loading import MergeModulelist, WeightConverter
from transformers.integrations.moe import use_experts_implementation
from transformers.models.switch_transformers.modeling_switch_transformers import (
    SwitchTransformersSparseMLP,
)

Within = Callable[[torch.Tensor], torch.Tensor]
"""index: (B, T), the expert that each token chose  ->  (B, T) bool, whether it takes the token"""


class Implementation:
    """Stands for a config: says by which function of the experts interface experts compute."""

    def __init__(self) -> None:
        self._experts_implementation = "eager"


@use_experts_implementation(has_gate=False)
class StackedExperts(nn.Module):
    """Experts of two matrices without a gate. up_proj: (E, I, H)   down_proj: (E, H, I)"""

    def __init__(self, config: Implementation, stock: Any) -> None:
        super().__init__()
        experts = [stock[f"expert_{number}"] for number in range(len(stock))]
        self.num_experts = len(experts)
        self.up_proj = _stacked([expert.wi for expert in experts])
        self.down_proj = _stacked([expert.wo for expert in experts])
        self.act_fn = experts[0].act

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """hidden_states: (T, H)   top_k_index, top_k_weights: (T, 1)  ->  (T, H)"""
        out = torch.zeros_like(hidden_states)
        for expert in top_k_index.unique().tolist():
            (chosen,) = torch.where(top_k_index[:, 0] == expert)  # (n,)
            inner = self.act_fn(F.linear(hidden_states[chosen], self.up_proj[expert]))  # (n, I)
            own = F.linear(inner, self.down_proj[expert]) * top_k_weights[chosen]  # (n, H)
            out = out.index_copy(0, chosen, own.to(out.dtype))
        return out


class Scores(nn.Module):
    """A router's linear layer, which computes in a dtype of its own."""

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.classifier = stock.classifier.to(stock.dtype)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: (B, T, H)  ->  (B, T, E), probabilities"""
        logits = self.classifier(hidden.to(self.classifier.weight.dtype))  # (B, T, E)
        return F.softmax(logits, dim=-1).to(hidden.dtype)


class SparseBlock(nn.Module):
    """Sends each token to its likeliest expert, which takes at most `capacity` of a sequence.

    Tokens beyond that get nothing from the block: the residual passes them on unchanged.
    within: who is counted with whom; by default the rows of a batch, from the first token on.
    """

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.router = Scores(stock.router)
        self.experts = StackedExperts(Implementation(), stock.experts)
        self.capacity = int(stock.router.expert_capacity)
        self.within: Within = self.within_rows

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """hidden_states: (B, T, H)  ->  (B, T, H)"""
        probabilities = self.router(hidden_states)  # (B, T, E)
        index = probabilities.argmax(-1)  # (B, T)
        weights = probabilities.max(-1).values  # (B, T)
        weights = weights * self.within(index).to(weights.dtype)
        rows = hidden_states.flatten(0, 1)  # (B*T, H)
        out: torch.Tensor = self.experts(rows, index.view(-1, 1), weights.view(-1, 1))  # (B*T, H)
        return out.view_as(hidden_states)

    def within_rows(self, index: torch.Tensor) -> torch.Tensor:
        """Rows of a batch are sequences. index: (B, T)  ->  (B, T) bool"""
        chosen = F.one_hot(index, self.experts.num_experts)  # (B, T, E)
        ranks = chosen.cumsum(1).gather(2, index.unsqueeze(-1)).squeeze(-1)  # (B, T), from 1
        return ranks <= self.capacity


def within_all(index: torch.Tensor) -> torch.Tensor:
    """For tokens that `generate()` computes one at a time: there is room for each.

    index: (B, T)  ->  (B, T) bool
    """
    return torch.ones_like(index, dtype=torch.bool)


def rewrite_sparse_blocks(model: nn.Module) -> None:
    """Put a `SparseBlock` in the place of each of transformers', with its weights."""
    stock = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, SwitchTransformersSparseMLP)
    }
    for path, module in stock.items():
        block = SparseBlock(module)
        if model.get_submodule(path.partition(".")[0]).is_decoder:
            block.within = within_all
        model.set_submodule(path, block.eval())


def use_experts(model: Any, function: str) -> None:
    """Let the model compute its experts by a function of the experts interface."""
    stacked: list[Any] = [m for m in model.modules() if isinstance(m, StackedExperts)]
    for module in stacked:
        module.config._experts_implementation = function
    if not stacked:
        model.set_experts_implementation(function)


def listed_converters(model: nn.Module) -> list[WeightConverter]:
    """How the experts of rewritten blocks are made of what a checkpoint has, one by one."""
    if not any(isinstance(module, StackedExperts) for module in model.modules()):
        return []
    return [
        WeightConverter(f"experts.expert_*.{stored}.weight", f"experts.{name}", [MergeModulelist()])
        for stored, name in (("wi", "up_proj"), ("wo", "down_proj"))
    ]


def _stacked(layers: Sequence[nn.Linear]) -> nn.Parameter:
    """-> (E, O, I)"""
    weights = torch.stack([layer.weight.detach() for layer in layers])
    return nn.Parameter(weights, requires_grad=False)
