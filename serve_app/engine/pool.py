"""The pool: per layer, stacked slot tensors and the expert maps into them. Decides nothing.

Which rows are free, and whose they are, is counted by `scheduling.slots`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from serve_app.engine.grouped import grouped_linear
from serve_app.engine.step import CurrentStep
from serve_app.errors import LoadFailed

EXPERTS = "expertpool_pool"


@dataclass(frozen=True, slots=True)
class SlotShape:
    """Shapes of the tensors of one slot of a layer, and how many experts a model has there."""

    tensors: dict[str, torch.Size]
    num_experts: int

    def num_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of one slot on the device."""
        return sum(shape.numel() for shape in self.tensors.values()) * dtype.itemsize


def slot_shape(experts: nn.Module) -> SlotShape:
    """The slot of an experts module: its own parameters without the expert dimension."""
    parameters = dict(experts.named_parameters(recurse=False))
    (num_experts,) = {parameter.shape[0] for parameter in parameters.values()}
    tensors = {name: parameter.shape[1:] for name, parameter in sorted(parameters.items())}
    return SlotShape(tensors, num_experts)


class PoolLayer:
    """One layer's slots and expert maps.

    tensors: name -> (P, *shape), P rows of slots.
    maps: (R, E) int64, slot of each expert of the model in map row r.
    """

    def __init__(
        self,
        step: CurrentStep,
        shape: SlotShape,
        *,
        num_rows: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.step = step
        self.shape = shape
        self.tensors = {
            name: torch.zeros((num_rows, *size), dtype=dtype, device=device)
            for name, size in shape.tensors.items()
        }
        self.maps = torch.zeros((0, shape.num_experts), dtype=torch.int64, device=device)

    @property
    def num_rows(self) -> int:
        return next(iter(self.tensors.values())).shape[0]

    @property
    def num_bytes(self) -> int:
        return self.maps.nbytes + sum(tensor.nbytes for tensor in self.tensors.values())

    def write(self, row: int, tensors: Mapping[str, torch.Tensor], source: str) -> None:
        """Copy a slot's tensors into a row. `source` names the slot in errors.

        Raises: LoadFailed, having copied nothing, where names or shapes differ.
        """
        got = {name: tensor.shape for name, tensor in tensors.items()}
        if got != self.shape.tensors:
            raise LoadFailed(f"{source}: holds {_shapes(got)}, not {_shapes(self.shape.tensors)}")
        for name, tensor in tensors.items():
            self.tensors[name][row].copy_(tensor)

    def set_map(self, row: int, slots: Sequence[int]) -> None:
        """Point map row `row` at pool rows, growing the maps where they end before it."""
        missing = row + 1 - self.maps.shape[0]
        if missing > 0:
            self.maps = torch.cat([self.maps, self.maps.new_zeros((missing, self.maps.shape[1]))])
        self.maps[row] = torch.tensor(slots, dtype=torch.int64, device=self.maps.device)

    def grow(self, num_rows: int) -> None:
        """Make room for more slots; those that are there keep their rows."""
        more = num_rows - self.num_rows
        for name, tensor in self.tensors.items():
            self.tensors[name] = torch.cat([tensor, tensor.new_zeros((more, *tensor.shape[1:]))])

    def forward(
        self, experts: Any, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Experts of all models' tokens in one sequence of grouped products over slots.

        hidden: (T, H)   index: (T, K), each token's experts   weights: (T, K)  ->  (T, H)
        Two experts of one token may lie in one slot: their weights then add up.
        """
        num_tokens, top_k = index.shape
        maps = self.maps[self.step.view.tokens.rows]  # (T, E)
        slots = maps.gather(1, index.long()).flatten()  # (T*K,)
        slots, order = torch.sort(slots, stable=True)
        counts = slots.new_zeros(self.num_rows).scatter_add_(0, slots, torch.ones_like(slots))
        ends = counts.cumsum(0).to(torch.int32)
        first = "gate_up_proj" if experts.has_gate else "up_proj"
        x = self._linear(experts, first, hidden[order // top_k], slots, ends)  # (T*K, 2I)
        x = experts._apply_gate(x) if experts.has_gate else experts.act_fn(x)  # (T*K, I)
        x = self._linear(experts, "down_proj", x, slots, ends)  # (T*K, H)
        x = x * weights.flatten()[order].unsqueeze(-1)
        out = torch.empty_like(x)
        out[order] = x
        return out.view(num_tokens, top_k, -1).sum(dim=1).to(hidden.dtype)

    def _linear(
        self, experts: Any, name: str, x: torch.Tensor, slots: torch.Tensor, ends: torch.Tensor
    ) -> torch.Tensor:
        """x: (n, I), sorted by slot   slots: (n,)   ends: (P,)  ->  (n, O)"""
        weight = self.tensors[name]
        out = grouped_linear(x.to(weight.dtype), weight, ends, transposed=experts.is_transposed)
        if experts.has_bias:
            out = out + self.tensors[f"{name}_bias"][slots]
        return out


def _shapes(shapes: Mapping[str, torch.Size]) -> str:
    return ", ".join(f"{name} {tuple(shape)}" for name, shape in sorted(shapes.items()))


def _experts_forward(
    experts: Any, hidden: torch.Tensor, *args: torch.Tensor, **kwargs: torch.Tensor
) -> torch.Tensor:
    """The experts interface's function: the module's pool does the work."""
    index, weights = [*args, *kwargs.values()]
    layer: PoolLayer = experts.pool_layer
    return layer.forward(experts, hidden, index, weights)


ALL_EXPERTS_FUNCTIONS.register(EXPERTS, _experts_forward)
