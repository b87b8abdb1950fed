"""Attention of encoders: each token sees all tokens of its own input. Stores nothing."""

import torch
from torch.nn import functional as F

from serve_app.engine.attention.biases import PositionBias
from serve_app.engine.step.step import CurrentStep

QUERIES = 128
"""At most this many queries of an input attend at once, so that their scores stay in cache."""


class WholeAttention:
    """One layer of an encoder. bias: on its scores; None: none."""

    def __init__(self, step: CurrentStep, bias: PositionBias | None) -> None:
        self.step = step
        self._bias = bias

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scaling: float
    ) -> torch.Tensor:
        """query: (E, Hq, Dk)   key: (E, H, Dk)   value: (E, H, Dv)  ->  (E, Hq, Dv)"""
        inputs = self.step.view.inputs
        assert inputs is not None, "an encoder runs in a step without inputs"
        found = []
        for start, end in inputs.pieces:
            keys, values = (x[start:end].transpose(0, 1).unsqueeze(0) for x in (key, value))
            for first in range(0, end - start, QUERIES):
                last = min(first + QUERIES, end - start)
                asking = query[start + first : start + last].transpose(0, 1).unsqueeze(0)
                bias = None
                if self._bias is not None:
                    bias = self._bias.of_input(first, last, start, end - start, inputs.tokens)
                out = F.scaled_dot_product_attention(
                    asking,
                    keys,
                    values,
                    attn_mask=bias,
                    scale=scaling,
                    enable_gqa=keys.shape[1] != asking.shape[1],
                )  # (1, Hq, n, Dv)
                found.append(out[0].transpose(0, 1))
        return torch.cat(found)  # (E, Hq, Dv)
