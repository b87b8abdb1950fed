"""Sparse parts: an expert comes back to the bit, whatever differs and wherever it lies."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from representation.formats import DENSE, ExpertShape, Sparse, dense_expert
from representation.formats.sparse import GAPS_BELOW, SHARES, Changes

Expert = dict[str, torch.Tensor]


def experts(
    shape: ExpertShape, part: float, dtype: torch.dtype = torch.bfloat16, seed: int = 0
) -> tuple[Expert, Expert]:
    """A slot, and an expert that differs from it in this part of its weights and in its biases."""
    generator = torch.Generator().manual_seed(seed)

    def random(name: str) -> torch.Tensor:
        return torch.randn(shape.parameters[name], generator=generator).to(dtype)

    slot = {name: random(name) for name in shape.parameters}
    expert = {}
    for name, tensor in slot.items():
        is_new = torch.rand(tensor.shape, generator=generator) < part
        expert[name] = torch.where(is_new, random(name), tensor)
    return slot, expert


def changes(expert: Expert, slot: Expert, shape: ExpertShape) -> list[Changes]:
    def upright(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.T if shape.transposed else tensor

    return [Changes.between(upright(expert[n]), upright(slot[n])) for n in shape.matrices]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 700),
    st.sampled_from([0.0, 0.0005, 0.01, 0.1, 0.3, 0.7]),
    st.booleans(),
    st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    st.integers(0, 99),
)
def test_an_expert_comes_back_to_the_bit(
    outputs: int, columns: int, part: float, transposed: bool, dtype: torch.dtype, seed: int
) -> None:
    size = (columns, outputs) if transposed else (outputs, columns)
    shape = ExpertShape({"w": size, "w_bias": (outputs,)}, transposed)
    slot, expert = experts(shape, part, dtype, seed)
    fmt = Sparse.smallest(changes(expert, slot, shape))
    if fmt is None:
        return
    tensors = fmt.encode(expert, slot, shape)
    specs = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    assert specs == fmt.tensor_specs(shape, dtype, residual=True)
    found = dense_expert([(DENSE, slot), (fmt, tensors)], shape)
    for name, tensor in expert.items():
        assert torch.equal(found[name].view(torch.int32), tensor.float().view(torch.int32))
    lines = slot["w"].T if transposed else slot["w"]
    blocks = [fmt.replaced(lines[i : i + 5], tensors, "w", i) for i in range(0, outputs, 5)]
    whole = expert["w"].T if transposed else expert["w"]
    assert torch.equal(torch.cat(blocks), whole)


def test_the_sign_of_a_zero_is_a_change() -> None:
    shape = ExpertShape({"w": (1, 4)}, False)
    slot, expert = {"w": torch.zeros(1, 4)}, {"w": -torch.zeros(1, 4)}
    (found,) = changes(expert, slot, shape)
    assert found.num_changed == 4


@pytest.mark.parametrize(("part", "most"), [(0.01, 0.03), (0.1, 0.18), (0.3, 0.45), (0.6, 0.8)])
def test_few_changes_are_gaps_and_many_a_bitmap(part: float, most: float) -> None:
    shape = ExpertShape({"w": (256, 512), "v": (512, 128)}, False)
    slot, expert = experts(shape, part)
    fmt = Sparse.smallest(changes(expert, slot, shape))
    assert fmt is not None
    assert fmt.has_gaps == (part < GAPS_BELOW / 1024)
    assert fmt.share in SHARES
    sizes = [fmt.num_bytes(shape, torch.bfloat16, residual=True)]
    sizes.append(DENSE.num_bytes(shape, torch.bfloat16, residual=False))
    assert sizes[0] < most * sizes[1]


@pytest.mark.parametrize(("every", "has_gaps"), [(7, False), (10, True), (400, True)])
def test_of_gaps_and_a_bitmap_the_smaller_is_taken(every: int, has_gaps: bool) -> None:
    shape = ExpertShape({"w": (64, 4096)}, False)
    slot = {"w": torch.zeros(64, 4096)}
    expert = {"w": slot["w"].clone()}
    expert["w"][:, ::every] = 1.0
    (found,) = changes(expert, slot, shape)
    fmt = Sparse.smallest([found])
    assert fmt is not None
    assert fmt.has_gaps == has_gaps == (found.num_entries < found.num_weights // 8)


def test_where_all_is_new_a_slot_of_its_own_takes_less() -> None:
    shape = ExpertShape({"w": (64, 64)}, False)
    slot = {"w": torch.zeros(64, 64)}
    assert Sparse.smallest(changes({"w": slot["w"] + 1}, slot, shape)) is None


def test_more_changes_than_there_is_room_for_are_refused() -> None:
    shape = ExpertShape({"w": (8, 64)}, False)
    slot, expert = experts(shape, 0.5)
    with pytest.raises(ValueError, match=r"w: \d+ entries, but room for 4"):
        Sparse(7).encode(expert, slot, shape)
