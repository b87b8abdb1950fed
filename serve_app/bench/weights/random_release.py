"""A release with random weights, made while it is read. Nothing is stored."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from representation.architecture.anatomy import study
from representation.architecture.config import config_of
from representation.formats import Dense, Format, LowRank, Packed, TensorSpec, format_of
from serve_app.engine.experts.shelves import LayerShape
from serve_app.engine.model.facts import DTYPES
from serve_app.engine.stacks.stack_shapes import unique_tensors
from serve_app.errors import ConfigError

NUM_DRAWN = 1_048_583
"""How many random numbers are drawn; every tensor repeats a stretch of them. A prime, so that no
two rows of a matrix are the same stretch."""
SIZE = 0.02
"""Standard deviation of weights, as transformers initialises them."""
RESIDUAL_SIZE = 0.002
"""Standard deviation of what residuals add."""


@dataclass(frozen=True, slots=True)
class RandomBackbone:
    digest: str
    bytes: int
    tensors: Mapping[str, str]
    in_float32: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RandomPart:
    digest: str
    bytes: int
    format: str
    matrices: tuple[str, ...] = ()
    on: str | None = None
    others: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RandomLayer:
    module: str
    transposed: bool
    slots: tuple[RandomPart, ...]
    residuals: tuple[RandomPart, ...]


@dataclass(frozen=True, slots=True)
class RandomModel:
    config: Mapping[str, Any]
    backbone: tuple[RandomBackbone, ...]
    expert_map: tuple[tuple[int, ...], ...]
    residual_map: tuple[tuple[tuple[int, ...], ...], ...]


class RandomRelease:
    """Models m0, m1, … of one config, each with its own backbone: a `ReleaseSource`.

    Merged, the experts of all models are the same slots, as in a release with the expert bytes of
    one model. Otherwise each model has its own slots.
    """

    id = "random"

    def __init__(
        self,
        config: Mapping[str, Any],
        num_models: int,
        *,
        dtype: str = "bfloat16",
        device: str = "cpu",
        parts: str = "dense",
        residuals: Sequence[str] = (),
        merged: bool = True,
        seed: int = 0,
    ) -> None:
        """parts: the format of every slot, or of its parts for single matrices, as in
        `packed-3-128@gate_up_proj+packed-4-128@down_proj`.   residuals: formats of each expert's
        residuals, one residual of each format.   device: where the weights are made.

        Raises: ValueError for a label that is not a format; ConfigError for parts that are not one
        for each matrix; Unsupported.
        """
        self.dtype = dtype
        self._noise = _Noise(seed, torch.device(device))
        self._slot_parts = [_slot_part(label) for label in parts.split("+")]
        self._residual_formats = [format_of(label) for label in residuals]
        for fmt in (*(fmt for fmt, _ in self._slot_parts), *self._residual_formats):
            _size_of("", fmt, SIZE)  # Refused by name here, not when parts are read.
        anatomy = study(config_of(config), DTYPES[dtype])
        self._tensors = unique_tensors(anatomy)
        self._shapes = {path: LayerShape.of(e) for path, e in anatomy.experts.items()}
        for shape in self._shapes.values():
            self._check_slot_parts(parts, shape.expert.matrices)
        num_owners = 1 if merged else num_models
        self.layers = tuple(
            self._layer(path, shape, num_owners, num_models) for path, shape in self._shapes.items()
        )
        self.models = {
            f"m{number}": self._model(number, config, merged=merged) for number in range(num_models)
        }

    def _layer(self, path: str, shape: LayerShape, num_owners: int, num_models: int) -> RandomLayer:
        def part(noun: str, number: int, fmt: Format, matrices: tuple[str, ...] = ()) -> RandomPart:
            own, residual = shape.expert.only(matrices), noun == "residual"
            size = fmt.num_bytes(own, DTYPES[self.dtype], residual=residual)
            digest = " ".join([path, noun, str(fmt), *matrices, str(number)])
            return RandomPart(digest, size, str(fmt), matrices)

        slots: list[RandomPart] = []
        for number in range(num_owners * shape.num_experts):
            first, *rest = [part("slot", number, *one) for one in self._slot_parts]
            others = tuple(range(len(slots) + 1, len(slots) + 1 + len(rest)))
            slots += [replace(first, others=others), *rest]
        residuals = [
            part("residual", number, fmt)
            for fmt in self._residual_formats
            for number in range(num_models * shape.num_experts)
        ]
        return RandomLayer(path, shape.expert.transposed, tuple(slots), tuple(residuals))

    def _check_slot_parts(self, parts: str, matrices: Sequence[str]) -> None:
        held = [name for _, own in self._slot_parts for name in own or matrices]
        if sorted(held) != sorted(matrices):
            raise ConfigError(f"{parts} has parts for {', '.join(held)}, not {', '.join(matrices)}")

    def _model(self, number: int, config: Mapping[str, Any], *, merged: bool) -> RandomModel:
        size = sum(shape.numel() * kind.itemsize for shape, kind in self._tensors.values())
        expert_map, residual_map = [], []
        for layer, shape in zip(self.layers, self._shapes.values(), strict=True):
            experts = range(shape.num_experts)
            first = 0 if merged else number * shape.num_experts
            num_parts = len(self._slot_parts)
            expert_map.append(tuple(num_parts * (first + expert) for expert in experts))
            each = len(layer.residuals) // max(1, len(self._residual_formats))
            residual_map.append(
                tuple(
                    tuple(
                        kind * each + number * shape.num_experts + expert
                        for kind in range(len(self._residual_formats))
                    )
                    for expert in experts
                )
            )
        return RandomModel(
            config,
            (RandomBackbone(f"backbone {number}", size, {}),),
            tuple(expert_map),
            tuple(residual_map) if self._residual_formats else (),
        )

    @property
    def reads_at_once(self) -> int:
        return 1

    def read_slot(self, layer: int, slot: int) -> dict[str, torch.Tensor]:
        return self._part(layer, self.layers[layer].slots[slot], residual=False)

    def read_residual(self, layer: int, residual: int) -> dict[str, torch.Tensor]:
        return self._part(layer, self.layers[layer].residuals[residual], residual=True)

    def _part(self, layer: int, part: RandomPart, *, residual: bool) -> dict[str, torch.Tensor]:
        shape = self._shapes[self.layers[layer].module].expert.only(part.matrices)
        fmt = format_of(part.format)
        specs = fmt.tensor_specs(shape, DTYPES[self.dtype], residual=residual)
        size = RESIDUAL_SIZE if residual else SIZE
        found = {}
        for name, spec in specs.items():
            if name.endswith(".scales"):
                step = _size_of(name, fmt, size)
                found[name] = torch.full(spec[0], step, dtype=spec[1], device=self._noise.device)
            else:
                drawn = _size_of(name, fmt, size)
                found[name] = self._noise.tensor(f"{part.digest} {name}", spec, drawn)
        return found

    def read_backbone(self, model: str) -> Iterator[tuple[str, torch.Tensor]]:
        for name, spec in self._tensors.items():
            if len(spec[0]) == 1 and name.endswith("norm.weight"):
                yield name, torch.ones(spec[0], dtype=spec[1], device=self._noise.device)
            else:
                yield name, self._noise.tensor(f"{model} {name}", spec, SIZE)


def _slot_part(label: str) -> tuple[Format, tuple[str, ...]]:
    """The format of a label such as `packed-4-128@down_proj`, and its matrices; none: all."""
    fmt, _, names = label.partition("@")
    return format_of(fmt), tuple(names.split(",")) if names else ()


def _size_of(name: str, fmt: Format, size: float) -> float:
    """How large the numbers of a part's tensor are, for weights of this size.

    Raises: ConfigError, naming a format that has no random form.
    """
    match fmt:
        case Packed() if name.endswith(".scales"):
            return size * 12**0.5 / (1 << fmt.bits)  # Codes are spread evenly.
        case LowRank() if name.endswith((".left", ".right")):
            # A product of factors is a sum of as many products as its rank.
            return float((size / fmt.rank**0.5) ** 0.5)
        case Dense() | Packed() | LowRank():
            return size
    raise ConfigError(f"there are no random weights in format {str(fmt)!r}")


class _Noise:
    """Tensors that look random, determined by name and seed, made at the speed of copying."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        generator = torch.Generator(device).manual_seed(seed)
        self._values = torch.randn(NUM_DRAWN, generator=generator, device=device)
        self._bytes = torch.randint(
            0, 256, (NUM_DRAWN,), generator=generator, device=device, dtype=torch.uint8
        )

    def tensor(self, name: str, spec: TensorSpec, size: float) -> torch.Tensor:
        """A tensor with the spec's shape and dtype: bytes as drawn, numbers times `size`."""
        shape, dtype = torch.Size(spec[0]), spec[1]
        start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % NUM_DRAWN
        drawn = self._bytes if dtype == torch.uint8 else self._values
        laps = max(0, -(-(start + shape.numel()) // NUM_DRAWN) - 1)
        stretch = torch.cat([drawn[start:], drawn.repeat(laps)])[: shape.numel()].view(shape)
        return stretch if dtype == torch.uint8 else (stretch * size).to(dtype)
