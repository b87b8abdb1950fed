"""Recurrences over the tokens of each of a step's sequences. Decides nothing.

A prompt's tokens run through transformers' own function for many tokens, one sequence after
another. Sequences with a single token, of all models, run together: in one pass over their states
by compiled code where there is some, else through transformers' own function for one token.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional as F

from serve_app.engine.device.native.recurrent import Recurrent
from serve_app.engine.step.step_states import StepStates

Function = Callable[..., Any]
EPS = 1e-6
"""Of the norm of queries and keys, as in transformers' functions."""


class DeltaRule:
    """A gated delta rule (Gated DeltaNet, 2412.06464), whose state is (heads, Dk, Dv).

    chunk, step: transformers' functions for many tokens, and for one.
    """

    def __init__(self, chunk: Function, step: Function, native: Recurrent | None) -> None:
        self._chunk = chunk
        self._step = step
        self._native = native

    def run(
        self,
        states: StepStates,
        kept: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        g: torch.Tensor,
        beta: torch.Tensor,
        use_qk_l2norm_in_kernel: bool = False,
        **_: Any,
    ) -> torch.Tensor:
        """kept: (R, heads, Dk, Dv), the states, which this replaces

        query, key: (1, T, Hk, Dk)   value: (1, T, H, Dv)   g: log of the decay, (1, T, H), or
        (1, T, H, Dk)   beta: (1, T, H)  ->  (1, T, H, Dv)
        """
        out = torch.empty(value.shape, dtype=query.dtype, device=query.device)
        given = {"use_qk_l2norm_in_kernel": use_qk_l2norm_in_kernel, "output_final_state": True}
        singles = states.singles
        if singles is not None:
            where: Any = slice(None) if singles.is_all else singles.tokens
            parts = [x[0, where] for x in (query, key, value, g, beta)]  # (S, …) each
            if self._native is not None and g.dim() == 3 and use_qk_l2norm_in_kernel:
                found = self._native.delta(kept, singles.rows, *_normed(*parts))
            else:
                q, k, v, decay, rate = (x.unsqueeze(1) for x in parts)  # (S, 1, …) each
                before = kept.index_select(0, singles.rows)
                found, after = self._step(
                    q, k, v, g=decay, beta=rate, initial_state=before, **given
                )
                kept.index_copy_(0, singles.rows, after.to(kept.dtype))
                found = found.squeeze(1)
            out[0, where] = found.to(out.dtype)
        for piece in states.longer:
            part = slice(piece.start, piece.end)
            before = kept[piece.row : piece.row + 1]
            found, after = self._chunk(
                query[:, part],
                key[:, part],
                value[:, part],
                g=g[:, part],
                beta=beta[:, part],
                initial_state=before,
                **given,
            )
            out[:, part] = found
            kept[piece.row] = after[0].to(kept.dtype)
        return out


def _normed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """As transformers' functions begin: query, key: (S, Hk, D), of norm 1; all in float32."""
    q, k = query.float(), key.float()
    q = q * torch.rsqrt((q * q).sum(-1, keepdim=True) + EPS) * q.shape[-1] ** -0.5
    k = k * torch.rsqrt((k * k).sum(-1, keepdim=True) + EPS)
    return q, k, value.float(), g.float().exp(), beta.float()


class StateSpace:
    """Mamba-2's recurrence (2405.21060), whose state is (heads, P, N).

    chunk: transformers' function for many tokens.
    """

    def __init__(self, chunk: Function, native: Recurrent | None) -> None:
        self._chunk = chunk
        self._native = native

    def run(
        self,
        states: StepStates,
        kept: torch.Tensor,
        x: torch.Tensor,
        dt: torch.Tensor,
        A: torch.Tensor,  # noqa: N803 - as transformers' function names them
        B: torch.Tensor,  # noqa: N803
        C: torch.Tensor,  # noqa: N803
        *,
        chunk_size: int,
        D: torch.Tensor,  # noqa: N803
        dt_bias: torch.Tensor,
        dt_softplus: bool,
        dt_limit: tuple[float, float],
        **_: Any,
    ) -> torch.Tensor:
        """kept: (R, H, P, N), the states, which this replaces

        x: (1, T, H, P)   dt: (1, T, H)   A, D, dt_bias: (H,), or (T, H) by token
        B, C: (1, T, G, N)  ->  (1, T, H, P)
        Bounds of time steps hold for a prompt's tokens, as in transformers' functions.
        """
        rate = dt[0] + dt_bias.to(dt.dtype)  # (T, H)
        rate = F.softplus(rate) if dt_softplus else rate
        bounded = torch.where(states.prompts[:, None], rate.clamp(*dt_limit), rate)
        decay, skip = A.expand(bounded.shape), D.expand(bounded.shape)  # (T, H) each
        out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        singles = states.singles
        if singles is not None:
            where: Any = slice(None) if singles.is_all else singles.tokens
            parts = x[0, where], bounded[where], decay[where], B[0, where], C[0, where]
            out[0, where] = self._single(kept, singles.rows, *(each.float() for each in parts))
            out[0, where] += x[0, where].float() * skip[where].unsqueeze(-1)
        for piece in states.longer:
            part = slice(piece.start, piece.end)
            found, after = self._chunk(
                x[:, part],
                bounded[None, part],
                decay[piece.start],
                B[:, part],
                C[:, part],
                chunk_size=chunk_size,
                D=skip[piece.start],
                initial_states=kept[piece.row : piece.row + 1],
                return_final_states=True,
            )
            out[:, part] = found
            kept[piece.row] = after[0].to(kept.dtype)
        return out

    def _single(
        self,
        kept: torch.Tensor,
        rows: torch.Tensor,
        x: torch.Tensor,
        dt: torch.Tensor,
        decay: torch.Tensor,
        b: torch.Tensor,
        c: torch.Tensor,
    ) -> torch.Tensor:
        """x: (S, H, P)   dt, decay: (S, H)   b, c: (S, G, N), all float32  ->  (S, H, P)"""
        factor = torch.exp(dt * decay)
        if self._native is not None and kept.dtype is torch.float32:
            return self._native.state_space(kept, rows, x * dt.unsqueeze(-1), factor, b, c)
        each = x.shape[1] // b.shape[1]
        b, c = b.repeat_interleave(each, dim=1), c.repeat_interleave(each, dim=1)  # (S, H, N)
        states = kept.index_select(0, rows).float() * factor[:, :, None, None]
        states = states + (x * dt.unsqueeze(-1)).unsqueeze(-1) * b.unsqueeze(2)  # (S, H, P, N)
        kept.index_copy_(0, rows, states.to(kept.dtype))
        return (states * c.unsqueeze(2)).sum(-1)


def recurrence(
    names: Mapping[str, Any], native: Recurrent | None
) -> tuple[str, DeltaRule | StateSpace] | None:
    """The recurrence of a modelling file, and the name of the function that it stands for.

    names: of the file's functions.   None: it is none that is known here.
    """
    for chunk, step in (
        ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule"),
        ("chunk_kimi_delta_attention", "recurrent_kimi_delta_attention"),
    ):
        if chunk in names and step in names:
            return chunk, DeltaRule(names[chunk], names[step], native)
    if "mamba2_chunk_scan" in names:
        return "mamba2_chunk_scan", StateSpace(names["mamba2_chunk_scan"], native)
    return None
