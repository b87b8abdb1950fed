"""Stand-ins for paged attention kernels, strict about what they are given; and plain attention."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from serve_app.engine.attention.form import Call


def attended(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float,
    window: int | None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The last tokens of one sequence over all of it, in float64.

    query: (n, Hq, Dk)   keys: (L, H, Dk)   values: (L, H, Dv)   sinks: (n, Hq)
    ->  (n, Hq, Dv), and the log of the total of the exponentials of the scores, (n, Hq)
    """
    num_tokens, heads, _ = query.shape
    each, length = heads // keys.shape[1], keys.shape[0]
    keys, values = (x.double().repeat_interleave(each, dim=1) for x in (keys, values))
    scores = torch.einsum("nhd,lhd->nhl", query.double(), keys) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = scores.exp()
    for token in range(num_tokens):
        position = length - num_tokens + token
        weights[token, :, position + 1 :] = 0
        if window is not None:
            weights[token, :, : max(0, position - window + 1)] = 0
    total = weights.sum(dim=-1)
    with_sinks = total if sinks is None else total + sinks.double().exp()
    out = torch.einsum("nhl,lhd->nhd", weights / with_sinks.unsqueeze(-1), values)
    return out.to(query.dtype), total.log().float()


def paged(stored: torch.Tensor, table: Sequence[int], length: int) -> torch.Tensor:
    """stored: (B, N, H, D)  ->  (length, H, D), of the sequence with that table"""
    return torch.cat([stored[block] for block in table])[:length]


def by_the_book(call: Call) -> torch.Tensor:
    """What any form must give."""
    paging = call.view.paging
    assert paging is not None
    parts = []
    for number, (table, length) in enumerate(
        zip(paging.host.tables, paging.host.lengths, strict=True)
    ):
        rows = slice(paging.host.starts[number], paging.host.starts[number + 1])
        keys = paged(call.store.keys, table, length)
        values = paged(call.store.values, table, length)
        sinks = None if call.sinks is None else call.sinks[rows]
        scaling, window, softcap = call.scaling, call.window, call.softcap
        parts.append(attended(call.query[rows], keys, values, scaling, window, softcap, sinks)[0])
    return torch.cat(parts)


def require(tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    assert isinstance(tensor, torch.Tensor)
    assert (tensor.dtype, tuple(tensor.shape)) == (dtype, shape)
    assert tensor.is_contiguous()


def varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: None,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: torch.Tensor,
    block_table: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As torch's, with block tables."""
    num_tokens, heads, width = query.shape
    num_sequences = len(seqused_k)
    _, _, kv_heads, kv_width = key.shape
    assert key.shape == value.shape, "the kernel has one dimension for keys and values"
    assert width == kv_width
    assert enable_gqa or heads == kv_heads
    assert cu_seq_k is None
    assert return_aux.lse
    require(cu_seq_q, torch.int32, (num_sequences + 1,))
    require(seqused_k, torch.int32, (num_sequences,))
    require(block_table, torch.int32, (num_sequences, block_table.shape[1]))
    starts, lengths = cu_seq_q.tolist(), seqused_k.tolist()
    counts = [end - start for start, end in pairwise(starts)]
    assert starts[0] == 0
    assert starts[-1] == num_tokens
    assert min(counts) > 0
    assert all(count <= length for count, length in zip(counts, lengths, strict=True))
    assert max_q >= max(counts)
    assert max_k >= max(lengths)
    left, right = window_size
    assert right == 0, "a token must not see those behind it"
    outs, totals = [], []
    for number, length in enumerate(lengths):
        table = block_table[number].tolist()
        rows = slice(starts[number], starts[number + 1])
        keys, values = paged(key, table, length), paged(value, table, length)
        window = None if left == -1 else left + 1
        out, total = attended(query[rows], keys, values, scale, window)
        outs.append(out)
        totals.append(total)
    return torch.cat(outs), torch.cat(totals).t().contiguous()


class FlashInferWrapper:
    """As FlashInfer's for prompts over a paged store."""

    num_plans = 0

    def __init__(
        self,
        workspace: torch.Tensor,
        layout: str,
        *,
        backend: str = "auto",
        use_cuda_graph: bool = False,
        qo_indptr_buf: torch.Tensor | None = None,
        paged_kv_indptr_buf: torch.Tensor | None = None,
        paged_kv_indices_buf: torch.Tensor | None = None,
        paged_kv_last_page_len_buf: torch.Tensor | None = None,
    ) -> None:
        assert workspace.dtype == torch.uint8
        assert workspace.data_ptr() % 16 == 0
        assert layout == "NHD"
        assert (backend == "fa2") == use_cuda_graph
        self._float_workspace_buffer = workspace
        self._int_workspace_buffer = torch.empty(4096, dtype=torch.uint8, device=workspace.device)
        self._buffers = [
            qo_indptr_buf,
            paged_kv_indptr_buf,
            paged_kv_indices_buf,
            paged_kv_last_page_len_buf,
        ]
        assert all((buffer is not None) == use_cuda_graph for buffer in self._buffers)
        self._settings: dict[str, Any] = {}

    def plan(
        self,
        qo_indptr: torch.Tensor,
        paged_kv_indptr: torch.Tensor,
        paged_kv_indices: torch.Tensor,
        paged_kv_last_page_len: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        **settings: Any,
    ) -> None:
        num_sequences = len(paged_kv_last_page_len)
        require(qo_indptr, torch.int32, (num_sequences + 1,))
        require(paged_kv_indptr, torch.int32, (num_sequences + 1,))
        require(paged_kv_indices, torch.int32, (int(paged_kv_indptr[-1]),))
        require(paged_kv_last_page_len, torch.int32, (num_sequences,))
        assert int(paged_kv_last_page_len.min()) >= 1
        assert int(paged_kv_last_page_len.max()) <= page_size
        assert settings.pop("causal")
        planned = [qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len]
        if self._buffers[0] is None:
            self._planned = planned
        else:
            self._planned = []
            for buffer, tensor in zip(self._buffers, planned, strict=True):
                assert buffer is not None
                assert len(tensor) == len(buffer) or tensor is paged_kv_indices
                buffer[: len(tensor)].copy_(tensor)
                self._planned.append(buffer)
        self._shape = (num_qo_heads, num_kv_heads, head_dim_qk, page_size)
        self._settings = settings
        type(self).num_plans += 1

    def run(
        self, query: torch.Tensor, stored: tuple[torch.Tensor, torch.Tensor], *, return_lse: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        starts, ends, indices, last = (tensor.tolist() for tensor in self._planned)
        heads, kv_heads, width, page_size = self._shape
        keys, values = stored
        assert return_lse
        assert query.shape == (starts[-1], heads, width)
        assert keys.shape[1:] == (page_size, kv_heads, width)
        assert values.shape[1:] == (page_size, kv_heads, self._settings["head_dim_vo"])
        assert query.dtype == self._settings["q_data_type"]
        assert keys.dtype == self._settings["kv_data_type"]
        left, softcap = self._settings["window_left"], self._settings["logits_soft_cap"]
        window = None if left == -1 else left + 1
        outs, totals = [], []
        for number, rest in enumerate(last):
            table = indices[ends[number] : ends[number + 1]]
            length = (len(table) - 1) * page_size + rest
            own = query[starts[number] : starts[number + 1]]
            pages = paged(keys, table, length), paged(values, table, length)
            out, total = attended(own, *pages, self._settings["sm_scale"], window, softcap)
            outs.append(out)
            totals.append(total)
        return torch.cat(outs), torch.cat(totals) * torch.log2(torch.tensor(torch.e))
