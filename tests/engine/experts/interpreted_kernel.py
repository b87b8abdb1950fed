"""Tests of the kernel for packed parts that Triton's interpreter runs on the CPU.

Triton decides when it is imported whether it interprets, so `test_packed_kernel.py` starts these
in a process of their own. float32 alone: the interpreter multiplies no bfloat16.
"""

from typing import Any

import pytest
import torch

from representation.formats import Packed, Split
from representation.formats.codes import dequantise, pack
from serve_app.engine.device.grouped import Groups
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.experts.packed_kernel import packed_linear_kernel
from serve_app.engine.experts.packed_linear import PackedRuns
from serve_app.engine.experts.split_linear import SplitRuns
from tests.engine.pooling import assert_as_by_themselves, filled_layer
from tests.support.checkpoints import tiny_model
from tests.support.mixes import MixedSource, in_turn


def random_matrices(fmt: Packed, shape: tuple[int, int, int]) -> tuple[Any, torch.Tensor]:
    """Planes and scales of P random matrices, the same codes for one width. shape: P, O, I"""
    generator = torch.Generator().manual_seed(fmt.bits)
    codes = torch.randint(0, 2**fmt.bits, shape, generator=generator).to(torch.uint8)
    num_scales = -(-shape[2] // fmt.group)
    scales = torch.rand((*shape[:2], num_scales), generator=generator).to(torch.bfloat16)
    return pack(codes, fmt.widths), scales


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(
    ("group", "counts"), [(32, [3, 0, 20, 1]), (24, [0, 0, 0, 5]), (128, [130, 70, 0, 1])]
)
def test_the_kernel_gives_what_the_unpacked_matrices_give(
    bits: int, group: int, counts: list[int]
) -> None:
    fmt = Packed(bits, group)
    planes, scales = random_matrices(fmt, (4, 70, 100))
    rows = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    ends = torch.tensor(counts).cumsum(0).to(torch.int32)
    x = torch.randn((len(rows) + 3, 100), generator=torch.Generator().manual_seed(0))
    found = packed_linear_kernel(x, planes, scales, fmt, ends)
    values = dequantise(planes, scales, fmt, 100)
    expected = torch.einsum("moi,mi->mo", values[rows], x[: len(rows)])
    assert torch.allclose(found[: len(rows)], expected, rtol=1e-4, atol=1e-3)
    assert not found[len(rows) :].any(), "rows of no group"
    multiplier = Multiplier(torch.device("cpu"))
    groups = Groups.counted(counts)
    on_cpu = PackedRuns(planes, scales, fmt, groups).product(multiplier, x[: len(rows)])
    assert torch.allclose(on_cpu, expected, rtol=1e-4, atol=1e-3)
    split = Split(bits, group)
    runs = SplitRuns(random_matrices(split, (4, 70, 100))[0], scales, split, Groups(ends=ends))
    by_planes = runs.product(multiplier, x)[: len(rows)]
    assert torch.allclose(by_planes, expected, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss"])
def test_a_layer_as_on_cuda_gives_what_each_models_experts_give(architecture: str) -> None:
    models = {f"m{seed}": tiny_model(architecture, seed) for seed in (1, 2)}
    source = MixedSource("r1", models, in_turn("every expert in its own way"))
    path = source.layers[0].module
    experts = {name: m.get_submodule(path) for name, m in source.references(models).items()}
    layer = filled_layer(source, 0, experts["m1"])
    layer.counts = False
    assert_as_by_themselves(layer, experts, [0] * 4 + [1] * 7)
