"""The kernels for experts that are sums of parts: interpreted, compiled, and run where CUDA is."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.experts.together_choice import make_together

pytest.importorskip("triton", reason="Triton is not installed: its kernels are not checked")

TESTS = Path(__file__).parents[1]
INTERPRETED = (
    TESTS / "device" / "interpreted_kernels.py",
    TESTS / "experts" / "interpreted_experts.py",
)
SIZES = {"num_columns": 256, "gathers": True, "top_k": 2, "tile_m": 16}
SORTED = ("order", "rank_at", "starts", "tiles", "num_tiles")
TABLES = dict.fromkeys((*SORTED, "part_table", "part_starts"), "*i32") | {"shelves": "*i64"}


def test_the_kernels_are_right_in_tritons_interpreter() -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, INTERPRETED)],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout[-4000:]


def compiled(
    kernel: Any, capability: int, tensors: dict[str, str], constants: dict[str, Any]
) -> Any:
    """A kernel for a device that need not be there; other arguments are whole numbers."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = tensors | dict.fromkeys(constants, "constexpr")
    signature = {name: kinds.get(name, "i32") for name in kernel.arg_names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if name in tensors
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32))


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("kinds", "widths"), [(1, 4), (1, 1 + 8), (2 + 4 + 8, 0)], ids=["four bits", "planes", "others"]
)
def test_products_compile_for_cuda(kinds: int, widths: int, capability: int) -> None:
    from serve_app.engine.device.kernels.part_products import part_products

    tensors = dict.fromkeys(("x", "out", "inner"), "*bf16") | TABLES
    tensors |= {"partials": "*fp32", "arrivals": "*i32"}
    constants: dict[str, Any] = SIZES | {"kinds": kinds, "widths": widths, "num_outputs": 256}
    constants |= {"transposed": False, "tile_n": 64, "is_gated": True, "by_turns": False}
    constants |= {"limit": 0.0, "slope": 1.0, "shift": 0.0}
    found = compiled(part_products, capability, tensors, constants)
    assert found.asm["cubin"]
    if widths == 4:
        conversions = re.findall(r"cvt\.rn\.b?f\d+\.[su]\d+", found.asm["ptx"])
        assert len(conversions) < 10, "a thread has 64 codes, and converts none"
        assert "cp.async.cg.shared.global" in found.asm["ptx"], (
            "words are copied 16 bytes at a time"
        )
        assert not re.search(r"ld\.global\S*\.[bu]8", found.asm["ptx"])


@pytest.mark.parametrize("capability", [80, 90])
def test_the_other_kernels_compile_for_cuda(capability: int) -> None:
    from serve_app.engine.device.kernels.pair_order import add_experts, sort_pairs
    from serve_app.engine.device.kernels.part_inner import inner_products

    tensors = dict.fromkeys(("x", "inner"), "*bf16") | TABLES
    own: dict[str, Any] = dict(SIZES)
    assert compiled(inner_products, capability, tensors, own).asm["cubin"]
    tensors = {"rows": "*i64", "index": "*i64"} | dict.fromkeys(SORTED, "*i32")
    tensors |= dict.fromkeys(("rank_of", "lead_starts", "cursors"), "*i32")
    own = {"top_k": 2, "tile_m": 16, "block": 1024}
    assert compiled(sort_pairs, capability, tensors, own).asm["cubin"]
    tensors = dict.fromkeys(("x", "weights", "out"), "*bf16")
    assert compiled(add_experts, capability, tensors, {"top_k": 2, "block": 512}).asm["cubin"]


@pytest.mark.gpu
@pytest.mark.parametrize("num_tokens", [1, 16, 900])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_twelve_formats_add_up_on_cuda(dtype: torch.dtype, num_tokens: int) -> None:
    from serve_app.engine.device.kernels.part_launches import PartLaunches
    from tests.engine.device.kernel_checks import check, routing, twelve_formats

    device = torch.device("cuda")
    made = twelve_formats((3, 200, 416))
    check(made, routing(num_tokens), PartLaunches(device), device, dtype=dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_engine_uses_the_kernels_on_cuda(
    dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    from serve_app.engine.experts.launched import LaunchedExperts
    from tests.engine.experts.interpreted_experts import TWELVE, layer_of

    layer, experts = layer_of(TWELVE)
    layers = [(experts["m1"], layer.shape, dict.fromkeys(layer.shelves, 1))]
    device = torch.device("cuda")
    multiplier = Multiplier(device)
    make = make_together(layers, multiplier, None, dtype=dtype, device=device, uses_int8=True)
    assert isinstance(make(), LaunchedExperts)
    assert not caplog.records
