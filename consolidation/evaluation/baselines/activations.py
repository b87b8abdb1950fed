"""The inputs and outputs of a layer's experts while a model runs. Keeps only a few tokens.

Both come through transformers' experts interface, which every mixture-of-experts model has:
`experts(hidden, top_k_index, top_k_weights)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from consolidation.statistics.scoring import each_window
from consolidation.statistics.text import Window
from consolidation.walk.asked import Asked
from consolidation.walk.streamed import Seen as WatchExperts
from consolidation.walk.streamed import StreamedModel


@dataclass(frozen=True, slots=True)
class Seen:
    """At one layer. hidden: (T, H), of some tokens; uses: (E,), how often each expert is used."""

    hidden: torch.Tensor
    uses: torch.Tensor


def see(model: StreamedModel, windows: Sequence[Window], *, num_tokens: int) -> list[Seen]:
    """Run a model on windows. Keeps `num_tokens` at each layer, spread evenly over the windows."""
    found: list[list[Seen | None]] = [[None] * len(windows) for _ in model.experts]
    stride = max(1, sum(len(window.tokens) for window in windows) // num_tokens)

    def watch(window: int) -> WatchExperts:
        def note(layer: int, asked: Asked) -> None:
            num_experts = model.experts[layer].num_experts
            uses = torch.bincount(asked.index.flatten(), minlength=num_experts)
            found[layer][window] = Seen(asked.hidden[::stride].clone(), uses)

        return note

    for _ in each_window(model, windows, lambda *_: None, watch):
        pass
    return [
        Seen(
            torch.cat([one.hidden for one in layer if one is not None])[:num_tokens],
            torch.stack([one.uses for one in layer if one is not None]).sum(0),
        )
        for layer in found
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
