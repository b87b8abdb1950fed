"""The inputs and outputs of a layer's experts while a model runs. Keeps only a few tokens.

Both come through transformers' experts interface, which every mixture-of-experts model has:
`experts(hidden, top_k_index, top_k_weights)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from consolidation.statistics.scoring import each_window
from consolidation.statistics.windows import Window
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
    totals = [sum(len(w.source) for w in windows), sum(len(w.tokens) for w in windows)]
    in_lists = [one.in_list for one in model.layers if one.experts is not None]
    strides = [max(1, totals[-len(model.lists) :][own] // num_tokens) for own in in_lists]

    def watch(window: int) -> WatchExperts:
        def note(layer: int, asked: Asked) -> None:
            num_experts = model.experts[layer].num_experts
            uses = torch.bincount(asked.index[asked.taken()], minlength=num_experts)
            found[layer][window] = Seen(asked.hidden[:: strides[layer]].clone(), uses)

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
