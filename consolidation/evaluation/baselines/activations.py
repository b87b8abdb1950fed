"""The inputs and outputs of a layer's experts while a model runs. Keeps only a few tokens.

Both come through transformers' experts interface, which every mixture-of-experts model has:
`experts(hidden, top_k_index, top_k_weights)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from consolidation.statistics.text import Window


@dataclass(frozen=True, slots=True)
class Seen:
    """At one layer. hidden: (T, H), of some tokens; uses: (E,), how often each expert is used."""

    hidden: torch.Tensor
    uses: torch.Tensor


def see(
    model: Any, modules: Sequence[str], windows: Sequence[Window], *, num_tokens: int
) -> list[Seen]:
    """Run a model on windows. Keeps `num_tokens` at each layer, spread evenly over the windows."""
    seen: list[list[Seen]] = [[] for _ in modules]
    stride = max(1, sum(len(window.tokens) for window in windows) // num_tokens)

    def hook(layer: int) -> Any:
        def watch(module: Any, arguments: tuple[Any, ...]) -> None:
            hidden, index, _ = arguments
            uses = torch.bincount(index.flatten(), minlength=_num_experts(module))
            seen[layer].append(Seen(hidden[::stride].float().clone(), uses))

        return watch

    handles = [
        model.get_submodule(module).register_forward_pre_hook(hook(layer))
        for layer, module in enumerate(modules)
    ]
    try:
        for window in windows:
            with torch.inference_mode():
                model(input_ids=torch.tensor([window.tokens]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return [
        Seen(
            torch.cat([one.hidden for one in layer])[:num_tokens],
            torch.stack([one.uses for one in layer]).sum(0),
        )
        for layer in seen
    ]


@torch.inference_mode()
def mean_outputs(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    """The mean output of each expert over all tokens. hidden: (T, H) -> (E, H)"""
    weights = torch.ones(len(hidden), 1)
    return torch.stack(
        [
            module(hidden, torch.full((len(hidden), 1), index), weights).mean(0)
            for index in range(_num_experts(module))
        ]
    )


def _num_experts(module: Any) -> int:
    return len(next(module.parameters()))
