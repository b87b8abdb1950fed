"""Convolutions over the tokens of each of a step's sequences. Decides nothing.

A convolution of K taps sees a token and the K - 1 before it, channel by channel.
"""

import torch
from torch.nn import functional as F
from transformers.activations import ACT2FN

from serve_app.engine.stacks.stacks import Stack
from serve_app.engine.step.spans import Spans
from serve_app.engine.step.step_states import StepStates


class Taps:
    """A convolution's weights of several backbones, as a stock mixer's code handles one's.

    stack: of (C, 1, K)
    """

    def __init__(self, stack: Stack, spans: Spans) -> None:
        self.stack = stack
        self.spans = spans
        self.dtype = stack.tensor.dtype

    def squeeze(self, dim: int) -> "Taps":
        """As of a tensor (C, 1, K)."""
        return self

    def of_tokens(self, tokens: torch.Tensor | None) -> torch.Tensor:
        """(C, K) if these tokens read one row, else (n, C, K). tokens: (n,) int64; None: all"""
        row = self.stack.rows.sole(self.spans)
        if row is not None:
            return self.stack.tensor[row].squeeze(1)
        rows = self.stack.rows.by_token(self.spans)
        return self.stack.tensor.squeeze(2)[rows if tokens is None else rows[tokens]]

    def of_place(self, place: int) -> torch.Tensor:
        """(C, K)"""
        return self.stack.tensor[self.stack.rows.of_place[place]].squeeze(1)


def convolve(
    x: torch.Tensor,
    taps: Taps,
    bias: torch.Tensor | None,
    activation: str | None,
    states: StepStates,
    kept: torch.Tensor,
) -> torch.Tensor:
    """What transformers' `causal_conv1d_fn` gives for each sequence, going on from its state.

    x: (1, C, T)   bias: (C,), or (T, C) by token   kept: (R, C, K), the last inputs of each
    sequence, which this replaces  ->  (1, C, T)
    """
    rows = x[0].transpose(0, 1)  # (T, C)
    out = torch.empty(rows.shape, dtype=taps.dtype, device=x.device)
    singles = states.singles
    if singles is not None:
        given = rows if singles.is_all else rows[singles.tokens]  # (S, C)
        before = kept.index_select(0, singles.rows)[:, :, 1:]
        window = torch.cat([before, given.unsqueeze(2)], dim=2)  # (S, C, K)
        kept.index_copy_(0, singles.rows, window)
        weight = taps.of_tokens(None if singles.is_all else singles.tokens)
        found = (window.float() * weight.float()).sum(2).to(taps.dtype)  # (S, C)
        if singles.is_all:
            out = found
        else:
            out[singles.tokens] = found
    for piece in states.longer:
        given = rows[piece.start : piece.end].transpose(0, 1)  # (C, n)
        whole = torch.cat([kept[piece.row, :, 1:], given], dim=1)  # (C, K - 1 + n)
        weight = taps.of_place(piece.place)
        found = F.conv1d(whole.to(taps.dtype)[None], weight[:, None], groups=len(weight))[0]
        out[piece.start : piece.end] = found.transpose(0, 1)
        kept[piece.row] = whole[:, -kept.shape[2] :]
    if bias is not None:
        out = out + bias
    if activation is not None:
        out = ACT2FN[activation](out)
    return out.to(x.dtype).transpose(0, 1)[None]
