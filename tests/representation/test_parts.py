"""Parts: an expert is its slot and its residuals added up, the way round the module has it."""

import pytest
import torch

from representation.formats import DENSE, ExpertShape, LowRank, Packed, dense_expert
from representation.formats.codes import dequantise

OUT, IN, RANK = 10, 14, 3
FMT = Packed(3, 4)


def random(*size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(sum(size)))


def shape_of(*, transposed: bool) -> ExpertShape:
    size = (IN, OUT) if transposed else (OUT, IN)
    return ExpertShape({"w": size, "b": (OUT,)}, transposed)


def packed_part(shape: ExpertShape, vector: torch.Tensor) -> dict[str, torch.Tensor]:
    codes = torch.arange(OUT * IN, dtype=torch.uint8).view(OUT, IN) % 8
    scales = random(OUT, 4).abs().bfloat16()
    return FMT.encode({"w": (codes, scales)}, {"b": vector}, shape)


def rank_part(vector: torch.Tensor) -> dict[str, torch.Tensor]:
    factors = {"w": (random(OUT, RANK), random(RANK, IN))}
    return LowRank(RANK).encode(factors, {"b": vector}, torch.bfloat16)


@pytest.mark.parametrize("transposed", [False, True])
def test_an_expert_is_the_sum_of_its_parts(transposed: bool) -> None:
    shape = shape_of(transposed=transposed)
    slot = {"w": random(*shape.parameters["w"]).bfloat16(), "b": random(OUT).bfloat16()}
    bits, factors = packed_part(shape, random(OUT, 1)[:, 0]), rank_part(random(OUT, 2)[:, 0])
    found = dense_expert([(DENSE, slot), (FMT, bits), (LowRank(RANK), factors)], shape)
    difference = dequantise([bits["w.plane2"], bits["w.plane1"]], bits["w.scales"], FMT, IN)
    difference = difference + factors["w.left"].float() @ factors["w.right"].float()
    expected = slot["w"].float() + (difference.T if transposed else difference)
    torch.testing.assert_close(found["w"], expected)
    torch.testing.assert_close(found["b"], slot["b"].float() + bits["b"] + factors["b"])
    assert found["w"].shape == shape.parameters["w"]
    assert found["w"].is_contiguous()
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}


@pytest.mark.parametrize("transposed", [False, True])
def test_one_dense_part_comes_back_exactly(transposed: bool) -> None:
    shape = shape_of(transposed=transposed)
    slot = {"w": random(*shape.parameters["w"]).bfloat16(), "b": random(OUT).bfloat16()}
    found = dense_expert([(DENSE, slot)], shape)
    assert list(found) == ["w", "b"]
    for name, tensor in slot.items():
        assert torch.equal(found[name], tensor.float())


@pytest.mark.parametrize("transposed", [False, True])
def test_a_part_is_encoded_as_its_format_says(transposed: bool) -> None:
    shape = shape_of(transposed=transposed)
    vector = random(OUT)
    for fmt, part in ((FMT, packed_part(shape, vector)), (LowRank(RANK), rank_part(vector))):
        specs = fmt.tensor_specs(shape, torch.bfloat16, residual=True)
        assert {name: (tuple(t.shape), t.dtype) for name, t in part.items()} == specs
        assert fmt.decode(part, "w", shape).shape == (OUT, IN)


def test_codes_or_scales_of_another_shape_are_refused() -> None:
    shape = shape_of(transposed=False)
    codes = torch.zeros(OUT, IN, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"w: codes \[10, 14\] and scales \[10, 3\]"):
        FMT.encode({"w": (codes, torch.ones(OUT, 3))}, {}, shape)
