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
    file_bytes,
    low_rank,
    num_bytes,
    packed,
    tensor_specs,
)

formats = st.one_of(
    st.just(DENSE),
    st.builds(packed, st.integers(1, 8), st.integers(1, 130)),
    st.builds(low_rank, st.integers(1, 40)),
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
    assert Format.parse(str(fmt)) == fmt


@pytest.mark.parametrize(
    "label", ["", "dense-4", "packed", "packed-4", "packed-04-32", "packed-9-32", "rank-0", "rank"]
)
def test_a_label_that_is_none_is_named(label: str) -> None:
    with pytest.raises(ValueError, match=f"format '{label}'"):
        Format.parse(label)


@pytest.mark.parametrize(
    "numbers", [("packed", 0, 32), ("packed", 4, 0), ("rank",), ("dense", 4), ("rank", 0, 8, 2)]
)
def test_numbers_that_make_no_format_are_refused(numbers: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="format"):
        Format(*numbers)  # type: ignore[arg-type]


@pytest.mark.parametrize(("bits", "planes"), [(1, (1,)), (3, (2, 1)), (7, (4, 2, 1)), (8, (8,))])
def test_the_planes_of_a_width_are_its_bits(bits: int, planes: tuple[int, ...]) -> None:
    assert packed(bits, 32).planes == planes
    assert DENSE.planes == ()


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
    specs = tensor_specs(shape, fmt, dtype, residual=residual)
    tensors = {name: torch.zeros(size, dtype=kind) for name, (size, kind) in specs.items()}
    assert len(encode_tensors(tensors)) == file_bytes(shape, fmt, dtype, residual=residual)
    assert sum(t.nbytes for t in tensors.values()) == num_bytes(
        shape, fmt, dtype, residual=residual
    )


def test_matrices_are_rows_of_output_features_whichever_way_the_module_has_them() -> None:
    plain = ExpertShape({"w": (6, 4), "b": (6,)}, transposed=False)
    turned = ExpertShape({"w": (4, 6), "b": (6,)}, transposed=True)
    assert plain.matrix("w") == turned.matrix("w") == (6, 4)
    for fmt in (packed(3, 3), low_rank(2)):
        one, other = (tensor_specs(s, fmt, torch.bfloat16, residual=True) for s in (plain, turned))
        assert one == other
    assert tensor_specs(turned, DENSE, torch.bfloat16, residual=False)["w"][0] == (4, 6)


def test_a_part_of_three_bits_has_two_planes_scales_and_the_biases() -> None:
    shape = ExpertShape({"w": (6, 20), "b": (6,)}, transposed=False)
    assert tensor_specs(shape, packed(3, 8), torch.float16, residual=True) == {
        "w.plane2": ((6, 5), torch.uint8),
        "w.plane1": ((6, 3), torch.uint8),
        "w.scales": ((6, 3), torch.bfloat16),
        "b": ((6,), torch.float32),
    }
    slot = tensor_specs(shape, packed(3, 8), torch.float16, residual=False)
    assert slot["b"] == ((6,), torch.float16)


def test_a_parameter_of_three_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match="parameter w is"):
        ExpertShape({"w": (2, 3, 4)}, transposed=False)
