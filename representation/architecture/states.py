"""What a recurrent mixer keeps of a sequence: tensors of a fixed size. Holds them for one call.

transformers gives these mixers (Gated DeltaNet, Mamba-2, short convolutions, …) one protocol. They
read and write their state through the cache that they are handed, and some write in place into the
tensor that a `get_…` has returned (https://github.com/huggingface/transformers, `cache_utils.py`,
`LinearAttentionLayer`).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch.nn import functional as F

from representation.architecture.errors import Unservable

if not torch.cuda.is_available():  # on a CPU, what it recommends to install is of no use
    logging.getLogger("transformers.integrations.hub_kernels").setLevel(logging.ERROR)
CACHE_ARGUMENTS = ("past_key_values", "past_key_value", "cache_params", "layer_past")
"""Names under which mixers take a cache."""


class StateKey(NamedTuple):
    """One tensor of a layer's state: the inputs that a convolution still sees, or a recurrence."""

    kind: Literal["conv", "recurrent"]
    number: int


@dataclass(frozen=True, slots=True)
class StateShape:
    """A tensor of one sequence's state in one layer."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


States = Mapping[StateKey, StateShape]
"""The state that one layer keeps of a sequence."""


class SequenceStates:
    """The cache that a mixer is handed, for one call. After it, `tensors` has the new states.

    tensors: those of B sequences, each (B, *shape); none where sequences begin.
    """

    def __init__(self, tensors: Mapping[StateKey, torch.Tensor] | None = None) -> None:
        self.tensors: dict[StateKey, torch.Tensor] = dict(tensors or {})

    def __getattr__(self, name: str) -> Any:
        """Raises: Unservable for whatever is not in the protocol."""
        raise Unservable(f"a mixer asks its cache for {name!r}; only attention may")

    def has_previous_state(self, layer_idx: Any = None, state_idx: int | None = None) -> bool:
        """Whether the sequences have begun."""
        return bool(self.tensors)

    def is_recording_past(self, layer_idx: int) -> bool:
        """No: what is computed is never taken back."""
        return False

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """The last inputs of a convolution; None where sequences begin. ->  (B, C, K)"""
        return self.tensors.get(StateKey("conv", state_idx))

    def update_conv_state(
        self,
        conv_states: torch.Tensor,
        layer_idx: int,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
    ) -> torch.Tensor:
        """Add inputs of a convolution, and keep the last K.

        conv_states: (B, C, n)  ->  those and the ones before them, at least K: (B, C, L)
        """
        key = StateKey("conv", state_idx)
        size = conv_states.shape[-1] if conv_kernel_size is None else conv_kernel_size
        before = self.tensors.get(key)
        if before is None:
            lacking = max(0, size - conv_states.shape[-1])
            whole = F.pad(conv_states, (lacking, 0)) if lacking else conv_states
        else:
            size = before.shape[-1]
            whole = torch.cat([before, conv_states], dim=-1)
        self.tensors[key] = whole[..., -size:]
        return whole

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """The state of a recurrence; None where sequences begin. ->  (B, …)"""
        return self.tensors.get(StateKey("recurrent", state_idx))

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, layer_idx: int, state_idx: int = 0
    ) -> torch.Tensor:
        """Replace the state of a recurrence. recurrent_states: (B, …)"""
        self.tensors[StateKey("recurrent", state_idx)] = recurrent_states
        return recurrent_states

    @property
    def shapes(self) -> States:
        """What the mixer keeps of one sequence."""
        return {key: StateShape(tuple(x.shape[1:]), x.dtype) for key, x in self.tensors.items()}
