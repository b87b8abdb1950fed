"""Attention by FlashInfer's paged kernels, if the optional package is installed.

They are planned on the host, once per step for all layers that are alike.
"""

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from serve_app.engine.attention.form import AttentionNeeds, Call, with_sinks
from serve_app.engine.step.paging import Paging
from serve_app.engine.step.transfer import Milestone

WORKSPACE_BYTES = 128 << 20
"""What FlashInfer recommends for partial results."""
PLAN_BYTES = (8 << 20) + (1 << 18)
"""What the library keeps for one plan: integers, and lengths of sequences."""
CONVERTED_BYTES = 64 << 20
"""What it keeps on top of that if it may choose kernels for Hopper: tables in another form."""
CAPTURED_BACKEND = "fa2"
"""Kernels for captured steps. Those for Hopper are no faster for single tokens, which wait for
memory, and would keep `CONVERTED_BYTES` for each size."""


def flashinfer_needs() -> AttentionNeeds:
    """The most that the form keeps; nothing if the package is not installed.

    There are two plans for each kind of layer, because that of the trial stays.
    """
    if find_spec("flashinfer") is None:
        return AttentionNeeds()
    return AttentionNeeds(WORKSPACE_BYTES, 2 * (PLAN_BYTES + CONVERTED_BYTES), PLAN_BYTES)


def flashinfer_form(device: torch.device) -> "FlashInfer":
    """Raises: ImportError if the package is not installed."""
    import flashinfer

    return FlashInfer(flashinfer.BatchPrefillWithPagedKVCacheWrapper, device)


@dataclass(frozen=True, slots=True)
class _Variant:
    """The layers that share one plan."""

    query_heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None
    scaling: float
    softcap: float | None
    dtype: torch.dtype


@dataclass(slots=True)
class _Planned:
    """A wrapper of the library, and the sequences that it was planned for.

    copied: when the plan has reached the device. The library copies it from its own host memory,
    which it overwrites with each plan, while the step before may still be running.
    """

    wrapper: Any
    paging: Paging | None = None
    copied: Milestone | None = None


class FlashInfer:
    """All sequences in one call; single tokens too, as prompts of one token."""

    name = "flashinfer"
    takes_groups = False
    takes_paging = True

    def __init__(self, wrapper: Any, device: torch.device) -> None:
        """wrapper: the library's class for prompts over a paged store."""
        self._wrapper = wrapper
        self._device = device
        self._workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        self._planned: dict[tuple[_Variant, tuple[int, int] | None], _Planned] = {}

    @property
    def num_bytes(self) -> int:
        """Bytes on the device: the workspace, and what the library holds for each plan."""
        held = [self._workspace]
        for planned in self._planned.values():
            values = vars(planned.wrapper).values()
            held += [value for value in values if isinstance(value, torch.Tensor)]
        there = [t.untyped_storage() for t in held if t.device.type == self._device.type]
        return sum({storage.data_ptr(): storage.nbytes() for storage in there}.values())

    def attend(self, call: Call) -> torch.Tensor:
        paging = call.view.paging
        assert paging is not None
        _, query_heads, key_dim = call.query.shape
        kv_heads, value_dim = call.store.values.shape[2:]
        variant = _Variant(
            query_heads,
            kv_heads,
            key_dim,
            value_dim,
            call.window,
            call.scaling,
            call.softcap,
            call.query.dtype,
        )
        planned = self._planned.get((variant, paging.captured))
        if planned is None:
            planned = _Planned(self._new_wrapper(paging))
            self._planned[variant, paging.captured] = planned
        if planned.paging is not paging:
            _plan(planned, variant, paging)
        stored = (call.store.keys, call.store.values)
        out, log2_total = planned.wrapper.run(call.query, stored, return_lse=True)
        return with_sinks(out, log2_total * math.log(2), call.sinks)

    def prepare(self, paging: Paging) -> None:
        """Plan again what a captured step runs, for the sequences of its next run."""
        for (variant, captured), planned in self._planned.items():
            if captured == paging.captured and planned.paging is not paging:
                _plan(planned, variant, paging)

    def _new_wrapper(self, paging: Paging) -> Any:
        """A wrapper for a captured step reads its plan from its own tensors."""
        if paging.captured is None:
            return self._wrapper(self._workspace, "NHD")

        def room(size: int) -> torch.Tensor:
            return torch.zeros(size, dtype=torch.int32, device=self._device)

        num_sequences, num_blocks = paging.tables.shape
        return self._wrapper(
            self._workspace,
            "NHD",
            backend=CAPTURED_BACKEND,
            use_cuda_graph=True,
            qo_indptr_buf=room(num_sequences + 1),
            paged_kv_indptr_buf=room(num_sequences + 1),
            paged_kv_indices_buf=room(num_sequences * num_blocks),
            paged_kv_last_page_len_buf=room(num_sequences),
        )


def _plan(planned: _Planned, variant: _Variant, paging: Paging) -> None:
    """Tell the library, in tensors on the host, which blocks each sequence reads."""
    host, size = paging.host, paging.block_size
    counts = [-(-length // size) for length in host.lengths]
    ends = [0]
    for count in counts:
        ends.append(ends[-1] + count)
    blocks = [b for table, n in zip(host.tables, counts, strict=True) for b in table[:n]]
    last = [length - (n - 1) * size for length, n in zip(host.lengths, counts, strict=True)]
    if planned.copied is not None:
        planned.copied.wait()
    planned.wrapper.plan(
        torch.tensor(host.starts, dtype=torch.int32),
        torch.tensor(ends, dtype=torch.int32),
        torch.tensor(blocks, dtype=torch.int32),
        torch.tensor(last, dtype=torch.int32),
        variant.query_heads,
        variant.kv_heads,
        variant.key_dim,
        size,
        head_dim_vo=variant.value_dim,
        causal=True,
        sm_scale=variant.scaling,
        window_left=-1 if variant.window is None else variant.window - 1,
        logits_soft_cap=variant.softcap,
        q_data_type=variant.dtype,
        kv_data_type=variant.dtype,
    )
    planned.paging = paging
    planned.copied = Milestone(paging.starts.device)
