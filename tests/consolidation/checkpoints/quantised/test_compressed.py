from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.errors import Refused
from tests.support.checkpoints import write_checkpoint
from tests.support.quantising import everything, rewrite

Stored = Callable[[str, torch.Tensor], dict[str, torch.Tensor] | None]
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "fp8 per tensor": ("float-quantized", {"type": "float", "strategy": "tensor"}),
    "fp8 per row": ("float-quantized", {"type": "float", "strategy": "channel"}),
    "fp8 in blocks": (
        "float-quantized",
        {"type": "float", "strategy": "block", "block_structure": [16, 8]},
    ),
    "int8 per row": ("int-quantized", {"strategy": "channel"}),
    "int8 with zeros": ("int-quantized", {"strategy": "channel", "symmetric": False}),
    "int4 in groups": ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 8}),
    "int4 with zeros": (
        "pack-quantized",
        {"num_bits": 4, "strategy": "group", "group_size": 8, "symmetric": False},
    ),
    "int4 per row": ("pack-quantized", {"num_bits": 4, "strategy": "channel"}),
    "int8 packed": ("pack-quantized", {"strategy": "group", "group_size": 4}),
}
PROJECTIONS = ("_proj.weight", "w1.weight", "w2.weight", "w3.weight")
KEY = "model.layers.1.self_attn.k_proj"
NOT_GROUPS: list[Any] = [
    [],
    {"a": 1},
    {"a": {"weights": {"strategy": ["x"]}}},
    {"a": {"weights": {"strategy": "group", "group_size": -1}}},
    {"a": {"weights": {"strategy": "block", "block_structure": 8}}},
    {"a": {"weights": {"strategy": "channel", "num_bits": "8"}}},
]


def settings(*ways: str) -> dict[str, Any]:
    groups = {
        f"group_{number}": {"targets": ["Linear"], "format": format_, "weights": weights}
        for number, (format_, weights) in enumerate(WAYS[way] for way in ways)
    }
    return {
        "quant_method": "compressed-tensors",
        "config_groups": groups,
        "format": WAYS[ways[0]][0],
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
    }


def scales_of(weight: torch.Tensor, args: dict[str, Any]) -> torch.Tensor:
    """A scale for each part of a matrix that the arguments make."""
    num_out, num_in = weight.shape
    rows, columns = {
        "tensor": (num_out, num_in),
        "channel": (1, num_in),
        "group": (1, args.get("group_size", 1)),
        "block": args.get("block_structure", [1, 1]),
    }[args["strategy"]]
    most = 448 if args.get("type") == "float" else 2 ** (args.get("num_bits", 8) - 1)
    parts = [
        [part.abs().max() / most for part in row.split(columns, 1)] for row in weight.split(rows)
    ]
    scales = torch.tensor(parts).bfloat16()
    return scales[0] if args["strategy"] == "tensor" else scales


def written_by_the_library(way: str) -> tuple[Stored, dict[str, torch.Tensor]]:
    """Stores projections as compressed-tensors does; what it decodes them to is kept beside."""
    compressors = pytest.importorskip("compressed_tensors.compressors", reason="extra: dev")
    quantization = pytest.importorskip("compressed_tensors.quantization", reason="extra: dev")
    label, args = WAYS[way]
    weights = quantization.QuantizationArgs(**args)
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=weights)
    compressor = compressors.BaseCompressor.get_value_from_registry(label)
    decoded: dict[str, torch.Tensor] = {}

    def stored(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor] | None:
        if not name.endswith(PROJECTIONS):
            return None
        parts = {"weight": tensor, "weight_scale": scales_of(tensor, args)}
        if not args.get("symmetric", True):
            zeros = torch.arange(parts["weight_scale"].numel()) % 7 - 3
            parts["weight_zero_point"] = zeros.view(parts["weight_scale"].shape).to(torch.int8)
        parts = compressor.compress(parts, scheme)
        decoded[name] = compressor.decompress(dict(parts), scheme)["weight"]
        module = name.removesuffix(".weight")
        return {f"{module}.{part}": tensor for part, tensor in parts.items()}

    return stored, decoded


@pytest.mark.parametrize("way", sorted(WAYS))
def test_compressed_weights_are_read_as_compressed_tensors_decodes_them(
    tmp_path: Path, way: str
) -> None:
    write_checkpoint(tmp_path, "mixtral", dtype=torch.bfloat16, tokenizer=False)
    stored, decoded = written_by_the_library(way)
    rewrite(tmp_path, settings(way), stored)
    checkpoint = open_checkpoint(tmp_path)
    found = everything(checkpoint)
    name = f"{KEY}.weight"
    assert torch.equal(found[name], decoded[name])
    inside = "model.layers.2.block_sparse_moe.experts.3"
    down, gate, up = (decoded[f"{inside}.{w}.weight"] for w in ("w2", "w1", "w3"))
    assert torch.equal(found["model.layers.2.mlp.experts.down_proj"][3], down)
    assert torch.equal(found["model.layers.2.mlp.experts.gate_up_proj"][3], torch.cat([gate, up]))
    assert checkpoint.quantised is not None
    assert checkpoint.quantised.startswith("compressed-tensors, ")


def by_hand(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor] | None:
    """Codes of 8 bits per row, with what a tool may add about inputs and the cache."""
    if not name.endswith("k_proj.weight"):
        return None
    module = name.removesuffix(".weight")
    extra = {f"{module}.input_scale": torch.ones(1), f"{module}.k_scale": torch.ones(1)}
    scales = torch.full((len(tensor), 1), 0.01)
    return {name: (tensor / 0.01).to(torch.int8), f"{module}.weight_scale": scales, **extra}


def test_each_weight_is_stored_by_the_group_that_fits_it(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "mixtral", dtype=torch.bfloat16, tokenizer=False)
    dense = {"sparsity_config": {"format": "dense", "global_sparsity": 0.01}}
    rewrite(tmp_path, settings("int4 in groups", "int8 per row") | dense, by_hand)
    codes = load_file(tmp_path / "model.safetensors")[f"{KEY}.weight"]
    checkpoint = open_checkpoint(tmp_path)
    found = everything(checkpoint)[f"{KEY}.weight"]
    assert torch.equal(found, (codes.float() * torch.tensor(0.01)).bfloat16())
    assert checkpoint.quantised == "compressed-tensors, int8 per row"


@pytest.mark.parametrize(
    ("edit", "fields", "names"),
    [
        (lambda t: t.pop(f"{KEY}.weight"), {}, ["weight_scale is there without", f"{KEY}.weight"]),
        (lambda t: t.pop(f"{KEY}.weight_scale"), {}, [f"{KEY}.weight", "I8"]),
        (
            lambda t: t.update({f"{KEY}.weight_scale": torch.ones(3, 1)}),
            {},
            [f"{KEY}.weight", "[3, 1]", "int8 per row"],
        ),
        (
            lambda t: t.update({f"{KEY}.weight_scale": torch.ones(16, 1, dtype=torch.int32)}),
            {},
            [f"{KEY}.weight_scale", "I32"],
        ),
        (
            lambda t: t.update({f"{KEY}.weight_zero_point": torch.ones(16, 1).to(torch.int8)}),
            {},
            [f"{KEY}.weight", "zeros I8"],
        ),
        (lambda t: t.update({f"{KEY}.weight_g_idx": torch.arange(32)}), {}, ["weight_g_idx"]),
        (
            lambda t: t.update({f"{KEY}.weight_packed": t.pop(f"{KEY}.weight").int()}),
            {},
            ["weight_packed", "I32", "CompressedTensorsDequantizer"],
        ),
        (lambda t: None, {"transform_config": {"R1": {}}}, ["transform_config"]),
        (
            lambda t: None,
            {"sparsity_config": {"format": "sparse-24-bitmask"}},
            ["sparsity_config", "CompressedTensorsDequantizer"],
        ),
        *(
            (lambda t: None, {"config_groups": groups}, ["no way of storing that is read"])
            for groups in NOT_GROUPS
        ),
        (
            lambda t: None,
            {"config_groups": {}},
            ["no way of storing that is read", "CompressedTensorsDequantizer"],
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(
    tmp_path: Path,
    edit: Callable[[dict[str, torch.Tensor]], object],
    fields: dict[str, Any],
    names: list[str],
) -> None:
    write_checkpoint(tmp_path, "mixtral", dtype=torch.bfloat16, tokenizer=False)
    rewrite(tmp_path, settings("int8 per row") | fields, by_hand)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(Refused) as caught:
        open_checkpoint(tmp_path)
    assert all(name in str(caught.value) for name in names), str(caught.value)
