"""What compressed-tensors writes: FP8, 8-bit integers, and 4 or 8 bits packed into words.

`<m>.weight` float8 or int8 (O, I), or `<m>.weight_packed` int32 (O, ⌈I · bits / 32⌉) with
`<m>.weight_shape`; `<m>.weight_scale` has one value for the tensor, a row, a group of columns of a
row, or a block; `<m>.weight_zero_point` is there unless codes are symmetric.
Source: https://github.com/vllm-project/compressed-tensors, `compressors` and `quantization`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from consolidation.checkpoints.quantised.converting import how_to_convert
from consolidation.checkpoints.quantised.quantised_tensor import (
    SCALE_DTYPES,
    Encoded,
    check_part,
    in_blocks,
    values_of_nibbles,
)
from consolidation.checkpoints.tensor_file import StoredTensor
from consolidation.errors import Refused

METHOD = "compressed-tensors"
WEIGHT, PACKED, SCALE, SHAPE, ZERO = (
    ".weight",
    ".weight_packed",
    ".weight_scale",
    ".weight_shape",
    ".weight_zero_point",
)
ACTIVATIONS = (
    *(f".{of}_{what}" for of in ("input", "output") for what in ("scale", "zero_point")),
    *(f".{of}_scale" for of in ("q", "k", "v")),
)
"""Of inputs and of cached keys and values: how the model is run, not what it is."""
CHANGES = ("sparsity_config", "transform_config")
"""Settings of which each changes weights further."""
CODES = {("float", 8): "F8_E4M3", ("int", 8): "I8"}
PACKED_BITS = (4, 8)


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the weights of a group of modules are stored. block: rows and columns; 0 means all."""

    type: str
    bits: int
    symmetric: bool
    block: tuple[int, int]
    label: str

    def scale_shapes(self, num_out: int, num_in: int) -> list[tuple[int, ...]]:
        """Shapes that the scales of a matrix may have."""
        rows, columns = self.block[0] or num_out, self.block[1] or num_in
        shape = (-(-num_out // rows), -(-num_in // columns))
        shapes: list[tuple[int, ...]] = [shape]
        if not self.block[1]:
            shapes.append(shape[:1])
        if self.block == (0, 0):
            shapes.append(())
        return shapes


@dataclass(frozen=True, slots=True)
class Compressed:
    """A matrix (O, I). A value is (code − zero) · scale."""

    codes: StoredTensor
    scales: StoredTensor
    zeros: StoredTensor | None
    scheme: Scheme
    shape: tuple[int, ...]

    is_transposed = False

    @property
    def label(self) -> str:
        """The format, for people."""
        return f"compressed-tensors, {self.scheme.label}"

    @property
    def parts(self) -> list[StoredTensor]:
        """All that decoding reads."""
        return [part for part in (self.codes, self.scales, self.zeros) if part is not None]

    def decode(self, index: int | None) -> torch.Tensor:
        """The matrix. -> (O, I)"""
        num_out, num_in = self.shape
        block = (self.scheme.block[0] or num_out, self.scheme.block[1] or num_in)
        codes = self.codes.read()
        is_packed = self.codes.dtype == "I32"
        codes = _unpacked(codes, self.scheme.bits)[:, :num_in] if is_packed else codes.float()
        if self.zeros is not None:
            zeros = self.zeros.read()
            if is_packed:  # along the rows
                zeros = _unpacked(zeros.T.contiguous(), self.scheme.bits)[:, :num_out].T
            for part, zero in in_blocks(codes, zeros.float(), block):
                part -= zero
        for part, scale in in_blocks(codes, self.scales.read().float(), block):
            part *= scale
        return codes


def _unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Signed codes from words, lowest bits first. words: (O, n) int32 -> (O, n · 32 / bits)"""
    packed = words.view(torch.uint8)
    if bits == 8:
        return packed.float() - 128
    return values_of_nibbles(packed, torch.arange(16.0) - 8, high_first=False)


def take(settings: Mapping[str, Any], stored: dict[str, StoredTensor]) -> dict[str, Encoded]:
    """Weights in this format, by name. Takes their parts out of `stored`. Raises `Refused`."""
    schemes = list(_schemes(settings))
    changed = [name for name in CHANGES if settings.get(name) and not _is_dense(settings[name])]
    if changed and stored:
        directory = next(iter(stored.values())).file.parent
        raise Refused(
            f"{directory}: {METHOD} with {changed[0]} is not read: "
            f"{how_to_convert(METHOD, directory)}"
        )
    found: dict[str, Encoded] = {}
    for key in [key for key in stored if key.endswith(SCALE)]:
        module = key.removesuffix(SCALE)
        scales, shape = stored.pop(key), stored.pop(module + SHAPE, None)
        zeros = stored.pop(module + ZERO, None)
        packed = stored.pop(module + PACKED, None)
        codes = packed or stored.pop(module + WEIGHT, None)
        if codes is None:
            raise Refused(f"{scales.file}: {key} is there without {module}{WEIGHT} or {PACKED}")
        found[module + WEIGHT] = _encoded(schemes, codes, scales, zeros, shape)
    for key in [key for key in stored if found and key.endswith(ACTIVATIONS)]:
        del stored[key]
    return found


def _is_dense(setting: Any) -> bool:
    """Whether a setting says that nothing is left out of the weights."""
    return isinstance(setting, dict) and setting.get("format") == "dense"


def _encoded(
    schemes: list[Scheme],
    codes: StoredTensor,
    scales: StoredTensor,
    zeros: StoredTensor | None,
    shape: StoredTensor | None,
) -> Compressed:
    """By the first of the schemes that has the shapes and dtypes of these parts."""
    size = _size(codes, shape)
    for scheme in schemes:
        if _fits(scheme, codes, scales, zeros, size):
            check_part(scales, scheme.label, SCALE_DTYPES, scales.shape)
            return Compressed(codes, scales, zeros, scheme, size)
    zero = "" if zeros is None else f" and zeros {zeros.dtype} {list(zeros.shape)}"
    raise Refused(
        f"{codes.file}: {codes.key} is {codes.dtype} {list(codes.shape)} with scales "
        f"{list(scales.shape)}{zero}; its config has "
        f"{' and '.join(scheme.label for scheme in schemes) or 'no way of storing that is read'}; "
        f"{how_to_convert(METHOD, codes.file.parent)}"
    )


def _size(codes: StoredTensor, shape: StoredTensor | None) -> tuple[int, int]:
    """(O, I)"""
    size = tuple(codes.shape)
    if shape is not None:
        if shape.shape != (2,) or shape.dtype not in ("I64", "I32"):
            raise Refused(f"{shape.file}: {shape.key} is not two numbers")
        size = tuple(int(length) for length in shape.read())
    if len(size) != 2 or min(size) < 1:
        raise Refused(f"{codes.file}: {codes.key} is of {list(size)}, which is no matrix")
    return size


def _fits(
    scheme: Scheme,
    codes: StoredTensor,
    scales: StoredTensor,
    zeros: StoredTensor | None,
    size: tuple[int, int],
) -> bool:
    num_out, num_in = size
    if scheme.symmetric != (zeros is None) or scales.shape not in scheme.scale_shapes(*size):
        return False
    if codes.dtype != "I32":
        given = codes.dtype == CODES.get((scheme.type, scheme.bits))
        return given and (zeros is None or (zeros.dtype, zeros.shape) == ("I8", scales.shape))
    words = (num_out, -(-num_in * scheme.bits // 32))
    if scheme.type != "int" or scheme.bits not in PACKED_BITS or codes.shape != words:
        return False
    across = (-(-num_out * scheme.bits // 32), *scales.shape[1:])
    return zeros is None or (zeros.dtype, zeros.shape) == ("I32", across)


def _schemes(settings: Mapping[str, Any]) -> Iterator[Scheme]:
    """Of the config's groups of modules, those of kinds that are read."""
    groups = settings.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        scheme = _scheme(weights) if isinstance(weights, dict) else None
        if scheme is not None:
            yield scheme


def _scheme(weights: Mapping[str, Any]) -> Scheme | None:
    kind, bits = str(weights.get("type", "int")), weights.get("num_bits", 8)
    group, structure = weights.get("group_size"), weights.get("block_structure")
    # Where none is named, the sizes tell, as in compressed-tensors.
    strategy = str(weights.get("strategy") or ("group" if group else "tensor"))
    sizes, per = {
        "tensor": ((0, 0), "per tensor"),
        "channel": ((1, 0), "per row"),
        "group": ((1, group), f"in groups of {group}"),
        "block": (structure, f"in blocks of {structure}"),
    }.get(strategy, (None, ""))
    if not isinstance(sizes, list | tuple) or len(sizes) != 2:
        return None
    if not all(isinstance(number, int) and number >= 0 for number in (*sizes, bits)):
        return None
    block = (int(sizes[0]), int(sizes[1]))
    return Scheme(kind, bits, bool(weights.get("symmetric", True)), block, f"{kind}{bits} {per}")
