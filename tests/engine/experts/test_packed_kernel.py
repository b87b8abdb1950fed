"""The kernel for packed parts: interpreted on the CPU, compiled for CUDA, run where CUDA is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from representation.formats import Packed
from representation.formats.codes import dequantise, pack

pytest.importorskip("triton", reason="Triton is not installed: its kernel is not checked")


def test_the_kernel_is_right_in_tritons_interpreter() -> None:
    tests = Path(__file__).with_name("interpreted_kernel.py")
    outcome = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout[-4000:]


@pytest.mark.parametrize("bits", [1, 3, 4, 7, 8])
def test_the_kernel_compiles_for_cuda(bits: int) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from serve_app.engine.experts.packed_kernel import _packed_linear

    pointers = dict.fromkeys(("x", "out", "scales"), "*bf16")
    pointers |= {f"plane{width}": "*u8" for width in (8, 4, 2, 1)}
    pointers |= {"tile_groups": "*i64", "tile_starts": "*i64", "ends": "*i32"}
    numbers = dict.fromkeys(("num_groups", "num_outputs", "num_columns"), "i32")
    constants = {"num_bits": bits, "group_size": 32, "num_scales": 16}
    constants |= {f"bytes{width}": 64 * width for width in (8, 4, 2, 1)}
    constants |= {"tile_m": 16, "tile_n": 64, "tile_k": 64}
    kinds = {**pointers, **numbers, **dict.fromkeys(constants, "constexpr")}
    signature = {name: kinds[name] for name in _packed_linear.arg_names}
    source = ASTSource(fn=_packed_linear, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert compiled.asm["cubin"]


@pytest.mark.gpu
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_is_right_on_cuda(bits: int, dtype: torch.dtype) -> None:
    from serve_app.engine.experts.packed_kernel import packed_linear_kernel

    fmt, device = Packed(bits, 32), torch.device("cuda")
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2**bits, (6, 200, 160), generator=generator).to(torch.uint8)
    scales = torch.rand((6, 200, 5), generator=generator).to(device, torch.bfloat16)
    planes = [plane.to(device) for plane in pack(codes, fmt.widths)]
    counts = torch.tensor([3, 0, 400, 1, 17, 0])
    rows = torch.repeat_interleave(torch.arange(6), counts).to(device)
    ends = counts.cumsum(0).to(device, torch.int32)
    x = torch.randn((len(rows) + 5, 160), generator=generator).to(device, dtype)
    found = packed_linear_kernel(x, planes, scales, fmt, ends)[: len(rows)]
    values = dequantise(planes, scales, fmt, 160)
    expected = torch.einsum("moi,mi->mo", values[rows], x[: len(rows)].float())
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    assert torch.allclose(found.float(), expected, rtol=tolerance, atol=tolerance * 30)
