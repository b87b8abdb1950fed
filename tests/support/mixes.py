"""Releases in memory whose experts are sums of parts, in any formats; and what they should say."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from representation.formats import (
    DENSE,
    Dense,
    ExpertShape,
    Format,
    LowRank,
    Packed,
    Sparse,
    dense_expert,
    format_of,
)
from tests.support.sources import MemorySource, Part, expert_shape, expert_tensors


@dataclass(frozen=True)
class Mix:
    """How an expert is held: the labels of its slot and residuals, and whose expert the slot is of.

    base: a model's name; None for the expert's own.   A label `rank-2@down_proj` is of a residual
    for that matrix alone; a slot may be in parts for a matrix each, with `+` between their labels.
    `@in` is the matrix before the gate, whatever its name.
    """

    slot: str
    residuals: tuple[str, ...] = ()
    base: str | None = None


MixOf = Callable[[str, int, int], Mix]
"""(model, layer, expert) -> how that expert is held."""


MIXES: dict[str, list[Mix]] = {
    "packed slots of their own": [Mix("packed-4-16")],
    "slots of three bits with ragged groups": [Mix("packed-3-10")],
    "a dense base and low rank": [Mix("dense", ("rank-3",), "m1")],
    "a dense base and signs": [Mix("dense", ("packed-1-32",), "m1")],
    "a packed base and a packed difference": [Mix("packed-8-16", ("packed-3-8",), "m1")],
    "slot and difference in one format": [Mix("packed-2-16", ("packed-2-16",), "m1")],
    "low rank and what it leaves": [Mix("packed-4-16", ("rank-5", "packed-2-32"), "m1")],
    "a base, with differences here and there": [
        Mix("dense", (), "m1"),
        Mix("dense", ("rank-1",), "m1"),
        Mix("dense", ("packed-7-16",), "m1"),
    ],
    "low rank for one matrix alone": [
        Mix("dense", ("rank-3@down_proj",), "m1"),
        Mix("packed-4-16", ("rank-2", "rank-2@down_proj"), "m1"),
    ],
    "slots with bits of each matrix": [
        Mix("packed-3-16@in+packed-6-16@down_proj"),
        Mix("dense@in+packed-4-16@down_proj", ("rank-2@down_proj",), "m1"),
        Mix("packed-4-16@in+packed-3-16@down_proj", ("packed-2-16", "rank-1"), "m1"),
        Mix("packed-4-16", (), "m1"),
    ],
    "planes of four bits": [Mix("split-8-16"), Mix("dense", ("split-7-8",), "m1")],
    "every expert in its own way": [
        Mix("dense"),
        Mix("packed-8-32"),
        Mix("packed-4-16", ("rank-4",), "m1"),
        Mix("dense", ("packed-6-8", "rank-2"), "m1"),
        Mix("packed-5-16", (), "m1"),
        Mix("packed-4-16", ("packed-1-8",), "m2"),
        Mix("dense", ("rank-8",), "m2"),
    ],
}
"""Ways of holding a family of models m1, m2, … by what is odd about them."""


def in_turn(name: str) -> MixOf:
    """The mixes of a name, one expert after another; not the same ones for each model."""
    mixes = MIXES[name]

    def mix_of(model: str, layer: int, expert: int) -> Mix:
        return mixes[(int(model[1:]) * 3 + layer * 5 + expert) % len(mixes)]

    return mix_of


class MixedSource(MemorySource):
    """A release of models whose experts are held as `mix_of` says."""

    def __init__(
        self, release: str, models: Mapping[str, Any], mix_of: MixOf, dtype: str = "float32"
    ) -> None:
        self._mix_of = mix_of
        super().__init__(release, models, dtype)

    def parts_of(
        self, experts: Mapping[str, Any], model: str, layer: int, index: int
    ) -> list[Part]:
        mix = self._mix_of(model, layer, index)
        shape = expert_shape(experts[model])
        wanted = expert_tensors(experts[model], index)
        base = expert_tensors(experts[mix.base or model], index)
        parts = []
        for label in mix.slot.split("+"):
            slot, only = _form(label, shape)
            parts.append((slot, encode(slot, base, only, residual=False)))
        for label in mix.residuals:
            fmt, only = _form(label, shape)
            if isinstance(fmt, Sparse):
                parts.append((fmt, fmt.encode(wanted, base, shape)))
                continue
            served = dense_expert(parts, shape)
            left = {name: tensor.float() - served[name] for name, tensor in wanted.items()}
            parts.append((fmt, encode(fmt, left, only, residual=True)))
        return parts

    def references(self, models: Mapping[str, Any]) -> dict[str, Any]:
        """Copies of the models with the experts that the release's parts add up to."""
        found = {}
        for name, model in models.items():
            found[name] = copy.deepcopy(model).float()
            for position, layer in enumerate(self.layers):
                experts = found[name].get_submodule(layer.module)
                shape = expert_shape(experts)
                for index in range(experts.num_experts):
                    parts = self._parts(name, position, index)
                    for key, value in dense_expert(parts, shape).items():
                        experts.get_parameter(key).data[index] = value
        return found

    def _parts(self, model: str, layer: int, index: int) -> list[Part]:
        slots, first = self.layers[layer].slots, self.models[model].expert_map[layer][index]
        own = (first, *slots[first].others)
        held = [(slots[slot], self._slots[layer][slot]) for slot in own]
        for residual in self.models[model].residual_map[layer][index]:
            held.append((self.layers[layer].residuals[residual], self._residuals[layer][residual]))
        return [(format_of(part.format), tensors) for part, tensors in held]


def _form(label: str, shape: ExpertShape) -> tuple[Format, ExpertShape]:
    """The format of a label, and the shape of what it is for."""
    name, _, matrix = label.partition("@")
    own = shape.matrices[0] if matrix == "in" else matrix
    return format_of(name), shape.only((own,) if own else ())


def encode(
    fmt: Format, tensors: Mapping[str, torch.Tensor], shape: ExpertShape, *, residual: bool
) -> dict[str, torch.Tensor]:
    """A part as near to the tensors as its format allows, without any cleverness."""
    vectors = {name: tensors[name] for name in shape.vectors}
    matrices = {name: DENSE.decode(tensors, name, shape) for name in shape.matrices}
    match fmt:
        case Dense():
            return {name: tensors[name] for name in shape.parameters}
        case LowRank():
            factors = {name: low_rank_factors(found, fmt.rank) for name, found in matrices.items()}
            return fmt.encode(factors, vectors, tensors[shape.matrices[0]].dtype)
        case Packed():
            codes = {name: quantised(found, fmt) for name, found in matrices.items()}
            return fmt.encode(codes, vectors, shape)
    raise NotImplementedError(str(fmt))


def low_rank_factors(wanted: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """wanted: (O, I)  ->  (O, r), (r, I)"""
    left, values, right = torch.linalg.svd(wanted, full_matrices=False)
    missing = max(0, rank - len(values))
    scaled = torch.nn.functional.pad(left[:, :rank] * values[:rank], (0, missing))
    return scaled, torch.nn.functional.pad(right[:rank], (0, 0, 0, missing))


def quantised(wanted: torch.Tensor, fmt: Packed) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (O, I) and scales (O, G) that reach from the largest value to its opposite."""
    half = (2**fmt.bits - 1) / 2
    groups = wanted.split(fmt.group, dim=1)
    largest = torch.stack([group.abs().amax(dim=1) for group in groups], dim=1)
    scales = (largest / half).clamp(min=1e-6).to(torch.bfloat16)
    spread = scales.float().repeat_interleave(fmt.group, dim=1)[:, : wanted.shape[1]]
    codes = (wanted / spread + half).round().clamp(0, 2**fmt.bits - 1)
    return codes.to(torch.uint8), scales
