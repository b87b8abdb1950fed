import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.checkpoints.quantised import bits_and_bytes
from consolidation.checkpoints.tensor_file import read_header
from consolidation.errors import Refused
from tests.support.checkpoints import write_checkpoint
from tests.support.quantising import everything, rewrite

SETTINGS = {"quant_method": "bitsandbytes", "load_in_4bit": True}
NF4 = (
    "-1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 "
    "-0.18477343022823334 -0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 "
    "0.24611230194568634 0.33791524171829224 0.44070982933044434 0.5626170039176941 "
    "0.7229568362236023 1.0"
)
VALUES = torch.tensor([float(value) for value in NF4.split()])
KEY = "model.layers.1.self_attn.k_proj.weight"
STATE = f"{KEY}.quant_state.bitsandbytes__nf4"

# What bitsandbytes 0.50.2 makes of torch.manual_seed(1); torch.randn(2, 32).bfloat16(), and what
# its dequantize_4bit makes of that again. It is not installed for the tests: it has 125 MB.
CODES = "1441743149366e8a42b8b84bc6017436d78587857867e4c54976a9bd8a65c405"
SIZES = (
    '{"quant_type": "nf4", "blocksize": 32, "dtype": "bfloat16", "shape": [2, 32], '
    '"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 2.7890625}'
)
FIRST_ROW = (
    "-1.5703125 -0.640625 -0.640625 -1.5703125 0.0 -0.640625 -0.890625 -1.5703125 -0.640625 "
    "0.36328125 -0.890625 -0.205078125 -0.205078125 1.6328125 0.1796875 0.5546875 -0.640625 "
    "-1.1796875 0.76171875 0.1796875 0.76171875 0.1796875 -0.640625 0.76171875 0.9921875 "
    "-0.205078125 -2.25 -1.5703125 0.0 -0.640625 -0.890625 -0.205078125"
)
LAST_OF_SECOND_ROW = "0.8203125 -0.302734375 -0.61328125 1.46875 -0.9453125 -3.328125 -0.61328125"


def as_bytes(text: bytes) -> torch.Tensor:
    return torch.tensor(list(text), dtype=torch.uint8)


def test_weights_are_read_as_bitsandbytes_decodes_them(tmp_path: Path) -> None:
    nested = torch.linspace(-0.992968738079071, 1.0, 256)
    nested[0], nested[255] = -0.992968738079071, 1.0
    parts = {
        "w": as_bytes(bytes.fromhex(CODES))[:, None],
        "w.absmax": torch.tensor([0, 255], dtype=torch.uint8),
        "w.quant_map": VALUES,
        "w.nested_absmax": torch.tensor([0.5390625]),
        "w.nested_quant_map": nested,
        "w.quant_state.bitsandbytes__nf4": as_bytes(SIZES.encode()),
    }
    save_file(parts, tmp_path / "file.safetensors")
    stored = read_header(tmp_path / "file.safetensors")
    found = bits_and_bytes.take({}, stored)["w"]
    matrix = found.decode(None).bfloat16()
    assert matrix[0].tolist() == [float(value) for value in FIRST_ROW.split()]
    assert matrix[1, -7:].tolist() == [float(value) for value in LAST_OF_SECOND_ROW.split()]
    assert found.label == "bitsandbytes nf4, scales too"
    assert not stored


def quantised(
    *, nested: bool, dtype: torch.dtype = torch.uint8, block: int = 64
) -> Callable[[str, torch.Tensor], dict[str, torch.Tensor] | None]:
    """Stores projections with the nearest of the 16 values. The last block may be smaller."""

    def stored(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor] | None:
        if not name.endswith(("_proj.weight", "w1.weight", "w2.weight", "w3.weight")):
            return None
        blocks = tensor.float().flatten().split(block)
        scales = torch.stack([one.abs().max() for one in blocks])
        codes = torch.cat(
            [
                (one[:, None] / scale - VALUES).abs().argmin(1)
                for one, scale in zip(blocks, scales, strict=True)
            ]
        ).to(torch.uint8)
        packed = (codes[::2] << 4 | codes[1::2]).view(dtype)
        sizes: dict[str, Any] = {
            "quant_type": "nf4",
            "blocksize": block,
            "dtype": "bfloat16",
            "shape": list(tensor.shape),
        }
        parts = {name: packed[:, None], f"{name}.quant_map": VALUES, f"{name}.absmax": scales}
        if nested:
            sizes |= {"nested_blocksize": 4, "nested_dtype": "float32", "nested_offset": 0.25}
            parts[f"{name}.absmax"] = (torch.arange(len(scales)) * 17).to(torch.uint8)
            parts[f"{name}.nested_absmax"] = 1.0 + torch.arange(-(-len(scales) // 4))
            parts[f"{name}.nested_quant_map"] = torch.linspace(-1, 1, 256)
        state = as_bytes(json.dumps(sizes).encode())
        return parts | {f"{name}.quant_state.bitsandbytes__nf4": state}

    return stored


def by_hand(parts: dict[str, torch.Tensor], name: str, block: int = 64) -> torch.Tensor:
    """Each weight by its own position, in plain Python."""
    shape = json.loads(bytes(parts[f"{name}.quant_state.bitsandbytes__nf4"].tolist()))["shape"]
    codes = parts[name].flatten().view(torch.uint8).tolist()
    scales = parts[f"{name}.absmax"].tolist()
    if f"{name}.nested_absmax" in parts:
        values, outer = parts[f"{name}.nested_quant_map"], parts[f"{name}.nested_absmax"]
        scales = [float(values[code] * outer[i // 4] + 0.25) for i, code in enumerate(scales)]
    flat = [
        VALUES[codes[i // 2] >> 4 if i % 2 == 0 else codes[i // 2] & 15]
        * torch.tensor(scales[i // block])
        for i in range(shape[0] * shape[1])
    ]
    return torch.stack(flat).view(shape)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("dtype", "block"), [(torch.uint8, 64), (torch.bfloat16, 80)])
def test_every_weight_has_the_value_of_its_code_and_block(
    tmp_path: Path, nested: bool, dtype: torch.dtype, block: int
) -> None:
    write_checkpoint(tmp_path, "mixtral", dtype=torch.bfloat16, tokenizer=False)
    rewrite(tmp_path, SETTINGS, quantised(nested=nested, dtype=dtype, block=block))
    parts = load_file(tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    found = everything(checkpoint)
    assert torch.equal(found[KEY], by_hand(parts, KEY, block).bfloat16())
    down = "model.layers.2.block_sparse_moe.experts.3.w2.weight"
    expected = by_hand(parts, down, block).bfloat16()
    assert torch.equal(found["model.layers.2.mlp.experts.down_proj"][3], expected)
    assert checkpoint.quantised == f"bitsandbytes nf4{', scales too' if nested else ''}"


@pytest.mark.parametrize(
    ("edit", "names"),
    [
        (lambda t: t.pop(f"{KEY}.absmax"), [STATE, "without", f"{KEY}.absmax"]),
        (lambda t: t.pop(STATE), [KEY]),
        (lambda t: t.update({KEY: t[KEY][1:].clone()}), [KEY, "255 bytes", "256"]),
        (lambda t: t.update({f"{KEY}.absmax": torch.ones(9)}), [f"{KEY}.absmax", "[9]", "[8]"]),
        (lambda t: t.update({f"{KEY}.quant_map": torch.ones(8)}), [f"{KEY}.quant_map", "[16]"]),
        (lambda t: t.update({STATE: as_bytes(b"{}")}), [STATE, "shape"]),
        (lambda t: t.update({STATE: as_bytes(b"[")}), [STATE, "cannot be read"]),
        (
            lambda t: t.update({STATE: as_bytes(b'{"shape": [16, 32], "blocksize": 0}')}),
            [STATE, "0"],
        ),
        (
            lambda t: t.update({STATE.replace("nf4", "int9"): t.pop(STATE)}),
            [KEY, "int9", "nf4 or fp4"],
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(
    tmp_path: Path, edit: Callable[[dict[str, torch.Tensor]], object], names: list[str]
) -> None:
    write_checkpoint(tmp_path, "mixtral", dtype=torch.bfloat16, tokenizer=False)
    rewrite(tmp_path, SETTINGS, quantised(nested=False))
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(Refused) as caught:
        open_checkpoint(tmp_path)
    assert all(name in str(caught.value) for name in names), str(caught.value)


def test_8_bits_of_bitsandbytes_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "mixtral", dtype=torch.bfloat16, tokenizer=False)

    def stored(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor] | None:
        scales = {name.replace("weight", "SCB"): torch.ones(len(tensor))}
        return {name: tensor.to(torch.int8), **scales} if name == KEY else None

    rewrite(tmp_path, {"quant_method": "bitsandbytes", "load_in_8bit": True}, stored)
    with pytest.raises(Refused, match=r"bitsandbytes\) in a way that is not read"):
        open_checkpoint(tmp_path)
