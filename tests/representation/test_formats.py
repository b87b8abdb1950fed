"""Formats: labels, the tensors of a blob, and bytes that are exact without encoding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from consolidation.release.tensors import encode_tensors
from representation.formats import (
    DENSE,
    ExpertShape,
    Format,
    LowRank,
    Packed,
    Sparse,
    Split,
    format_of,
)

formats = st.one_of(
    st.just(DENSE),
    st.builds(Packed, st.integers(1, 8), st.integers(1, 130)),
    st.builds(Split, st.integers(1, 8), st.integers(1, 130)),
    st.builds(LowRank, st.integers(1, 40)),
    st.builds(Sparse, st.integers(1, 1024)),
)
sizes = st.integers(1, 70)


@st.composite
def shapes(draw: st.DrawFn) -> ExpertShape:
    hidden, inner = draw(sizes), draw(sizes)
    parameters: dict[str, tuple[int, ...]] = {"gate_up_proj": (2 * inner, hidden)}
    parameters["down_proj"] = (hidden, inner)
    if draw(st.booleans()):
        parameters["gate_up_proj_bias"] = (2 * inner,)
        parameters["down_proj_bias"] = (hidden,)
    return ExpertShape(parameters, draw(st.booleans()))


@given(formats)
def test_a_label_is_read_as_the_format_that_wrote_it(fmt: Format) -> None:
    assert format_of(str(fmt)) == fmt


@pytest.mark.parametrize(
    "label", ["", "dense-4", "packed", "packed-4", "packed-04-32", "packed-9-32", "rank-0", "rank"]
)
def test_a_label_that_is_none_is_named(label: str) -> None:
    with pytest.raises(ValueError, match=f"format '{label}'"):
        format_of(label)


@pytest.mark.parametrize(
    ("kind", "numbers"), [(Packed, (0, 32)), (Packed, (4, 0)), (Packed, (9, 4)), (LowRank, (0,))]
)
def test_numbers_that_make_no_format_are_refused(
    kind: type[Format], numbers: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="format"):
        kind(*numbers)


@pytest.mark.parametrize(("bits", "planes"), [(1, (1,)), (3, (2, 1)), (7, (4, 2, 1)), (8, (8,))])
def test_the_planes_of_a_width_are_its_bits(bits: int, planes: tuple[int, ...]) -> None:
    assert Packed(bits, 32).widths == planes


@pytest.mark.parametrize(
    ("bits", "planes"),
    [
        (8, ["w.plane4.1", "w.plane4.0"]),
        (7, ["w.plane4.0", "w.plane2", "w.plane1"]),
        (4, ["w.plane4.0"]),
        (3, ["w.plane2", "w.plane1"]),
    ],
)
def test_split_codes_lie_in_planes_of_at_most_four_bits(bits: int, planes: list[str]) -> None:
    shape = ExpertShape({"w": (6, 20)}, transposed=False)
    specs = Split(bits, 8).tensor_specs(shape, torch.bfloat16, residual=False)
    assert list(specs) == [*planes, "w.scales"]


@pytest.mark.parametrize("bits", range(1, 9))
def test_split_planes_are_packed_matrices_whose_scales_are_powers_of_two_apart(bits: int) -> None:
    shape = ExpertShape({"w": (6, 21)}, transposed=False)
    fmt, same = Split(bits, 8), Packed(bits, 8)
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(0, 2**bits, (6, 21), generator=generator, dtype=torch.uint8)
    scales = torch.rand((6, 3), generator=generator).bfloat16()
    tensors = fmt.encode({"w": (codes, scales)}, {}, shape)
    value = fmt.decode(tensors, "w", shape)
    assert torch.equal(
        value, same.decode(same.encode({"w": (codes, scales)}, {}, shape), "w", shape)
    )
    total = torch.zeros_like(value)
    for name, width, shift in zip(fmt.plane_names("w"), fmt.widths, fmt.shifts, strict=True):
        alone = Packed(width, 8)
        plane = {f"w.plane{width}": tensors[name], "w.scales": scales * 2**shift}
        total += alone.decode(plane, "w", shape)
    assert torch.equal(total, value)


@settings(max_examples=200)
@given(
    shapes(),
    formats,
    st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    st.booleans(),
)
def test_bytes_of_a_file_are_known_before_it_is_encoded(
    shape: ExpertShape, fmt: Format, dtype: torch.dtype, residual: bool
) -> None:
    specs = fmt.tensor_specs(shape, dtype, residual=residual)
    tensors = {name: torch.zeros(size, dtype=kind) for name, (size, kind) in specs.items()}
    assert len(encode_tensors(tensors)) == fmt.file_bytes(shape, dtype, residual=residual)
    assert sum(t.nbytes for t in tensors.values()) == fmt.num_bytes(shape, dtype, residual=residual)


def test_matrices_are_rows_of_output_features_whichever_way_the_module_has_them() -> None:
    plain = ExpertShape({"w": (6, 4), "b": (6,)}, transposed=False)
    turned = ExpertShape({"w": (4, 6), "b": (6,)}, transposed=True)
    assert plain.matrix("w") == turned.matrix("w") == (6, 4)
    for fmt in (Packed(3, 3), LowRank(2)):
        one, other = (fmt.tensor_specs(s, torch.bfloat16, residual=True) for s in (plain, turned))
        assert one == other
    assert DENSE.tensor_specs(turned, torch.bfloat16, residual=False)["w"][0] == (4, 6)


def test_a_part_of_three_bits_has_two_planes_scales_and_the_biases() -> None:
    shape = ExpertShape({"w": (6, 20), "b": (6,)}, transposed=False)
    assert Packed(3, 8).tensor_specs(shape, torch.float16, residual=True) == {
        "w.plane2": ((6, 5), torch.uint8),
        "w.plane1": ((6, 3), torch.uint8),
        "w.scales": ((6, 3), torch.bfloat16),
        "b": ((6,), torch.float32),
    }
    slot = Packed(3, 8).tensor_specs(shape, torch.float16, residual=False)
    assert slot["b"] == ((6,), torch.float16)


def test_a_parameter_of_three_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match="parameter w is"):
        ExpertShape({"w": (2, 3, 4)}, transposed=False)
