"""Compiled products of experts that are sums of parts, against plain ones in float64."""

import ctypes
import math
import mmap

import pytest
import torch

from serve_app.engine.device.laid import (
    GROUP,
    ChangedMatrices,
    DenseMatrices,
    FactorPairs,
    Gate,
    LaidShelf,
    Matrix,
    Plane,
    Planes,
)
from serve_app.engine.device.native.library import Native, library
from serve_app.engine.device.native.parts import CompiledParts, LaidExperts, LaidShelves
from serve_app.engine.experts.gating import gated

WIDTHS = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}
SPLIT = (4, 4)
FINE, COARSE = 0.004, 0.02
"""Of the largest number: what rounding to bfloat16 costs, and what x in 8 bits costs beside it."""


def parts(
    num_threads: int = 1, *, vnni: bool | None = False, dots: bool | None = False
) -> CompiledParts:
    code = library()
    if code is None:
        pytest.skip("nothing was compiled, or this CPU has no AVX2")
    return CompiledParts(Native(code, num_threads), vnni=vnni, dots=dots)


def has_vnni() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_vnni") and capabilities.get("avx512_vl"))


class Made:
    """A shelf with random parts, and the matrices that they stand for: (P, O, I) float64."""

    def __init__(self, matrix: Matrix, dense: torch.Tensor, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(-1, dense.shape[0], (3, 8), generator=generator)
        self.dense = dense
        self.bias = torch.randn(dense.shape[:2], generator=generator)
        if seed % 2:
            self.bias = self.bias.to(torch.bfloat16)
        self.shelf = LaidShelf(rows, matrix, self.bias)


def bfloat16(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) / 8).to(torch.bfloat16)


def plane_of(codes: torch.Tensor, width: int) -> torch.Tensor:
    """Neighbouring columns in bytes, the first in the lowest bits."""
    per_byte = 8 // width
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[-1] % per_byte))
    places = torch.arange(per_byte) * width
    found: torch.Tensor = (padded.unflatten(-1, (-1, per_byte)).int() << places).sum(-1)
    return found.to(torch.uint8)


def packed(
    widths: tuple[int, ...], shape: tuple[int, int, int], fine_bits: int = 8, seed: int = 0
) -> Made:
    """Random codes of as many bits as the widths add up to, the widest plane first."""
    bits, num_columns = sum(widths), shape[2]
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, shape, generator=generator)
    num_groups = -(-num_columns // GROUP)
    scales = torch.rand((*shape[:2], num_groups), generator=generator).to(torch.bfloat16) / 64
    planes, shift = [], bits
    for width in widths:
        shift -= width
        planes.append(Plane(plane_of((codes >> shift) & (2**width - 1), width), width))
    factors = scales.double().repeat_interleave(GROUP, -1)[..., :num_columns]
    return Made(Planes(planes, scales, fine_bits), (codes - (2**bits - 1) / 2) * factors, seed)


def dense(shape: tuple[int, int, int], seed: int = 0) -> Made:
    matrices = bfloat16(*shape, seed=seed)
    return Made(DenseMatrices(matrices), matrices.double(), seed)


def factors(shape: tuple[int, int, int], rank: int, seed: int = 0) -> Made:
    left = bfloat16(shape[0], rank, shape[1], seed=seed)
    right = bfloat16(shape[0], rank, shape[2], seed=seed + 1)
    return Made(FactorPairs(left, right), left.double().transpose(1, 2) @ right.double(), seed)


def changes(shape: tuple[int, int, int], *, by_gaps: bool, seed: int = 0) -> Made:
    """A tenth of the weights of two matrices are others in each part."""
    generator = torch.Generator().manual_seed(seed)
    slots, own = bfloat16(2, *shape[1:], seed=seed), bfloat16(*shape, seed=seed + 1)
    base = torch.randint(0, 2, (shape[0],), generator=generator)
    mask = torch.rand(shape, generator=generator) < 0.1
    room = int(mask.sum((1, 2)).max()) + 3
    values = torch.zeros((shape[0], room), dtype=torch.bfloat16)
    gaps = torch.zeros((shape[0], room), dtype=torch.uint8)
    starts = torch.zeros((shape[0], shape[1] + 1), dtype=torch.int32)
    for part, held in enumerate(mask):
        lines, columns = held.nonzero(as_tuple=True)
        values[part, : len(lines)] = own[part][held]
        before = [-1, *columns.tolist()]
        for entry, (line, column) in enumerate(zip(lines.tolist(), columns.tolist(), strict=True)):
            is_first = entry == 0 or line != lines[entry - 1]
            gaps[part, entry] = column - (-1 if is_first else before[entry]) - 1
        starts[part, 1:] = held.sum(1).cumsum(0)
    made = Made(dense(shape).shelf.matrix, torch.where(mask, own, slots[base]).double(), seed)
    rows = made.shelf.rows
    bases = torch.where(rows < 0, -1, base[rows.clamp(min=0)])
    bits = None if by_gaps else plane_of(mask.int(), 1)
    matrix = ChangedMatrices(slots, bases, starts, values, gaps if by_gaps else None, bits)
    made.shelf = LaidShelf(rows, matrix, made.bias)
    return made


def expected(made: list[Made], entries: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(n, O) float64"""
    rows = x.double().repeat_interleave(len(entries) // len(x), 0)
    found = torch.zeros((len(entries), made[0].dense.shape[1]), dtype=torch.float64)
    for one in made:
        for pair, entry in enumerate(entries.tolist()):
            part = int(one.shelf.rows.view(-1)[entry])
            if part >= 0:
                found[pair] += one.dense[part] @ rows[pair] + one.bias[part].double()
    return found


def entries_of(num_pairs: int) -> torch.Tensor:
    return torch.randint(0, 24, (num_pairs,), generator=torch.Generator().manual_seed(num_pairs))


def check(
    made: list[Made],
    num_rows: int,
    each: int,
    allowed: float,
    *,
    vnni: bool | None = False,
    dots: bool | None = False,
) -> None:
    shape = made[0].dense.shape
    entries, x = entries_of(num_rows * each), bfloat16(num_rows, shape[2], seed=7)
    laid = LaidShelves([one.shelf for one in made])
    found = parts(vnni=vnni, dots=dots).multiply(laid, entries, x, shape[1])
    wanted = expected(made, entries, x)
    assert (found.double() - wanted).abs().max() <= allowed * max(wanted.abs().max().item(), 1e-6)


@pytest.mark.parametrize("vnni", [False, True])
@pytest.mark.parametrize("is_fine", [False, True])
@pytest.mark.parametrize("widths", [*WIDTHS.values(), SPLIT])
def test_codes_of_any_bits_are_multiplied_as_they_lie(
    widths: tuple[int, ...], is_fine: bool, vnni: bool
) -> None:
    if vnni and not has_vnni():
        pytest.skip("this CPU has no VNNI")
    made = [packed(widths, (5, 37, 520), 8 if is_fine else 0)]
    check(made, 3, 2, FINE if is_fine else COARSE, vnni=vnni)


@pytest.mark.parametrize("vnni", [False, True])
@pytest.mark.parametrize("widths", [SPLIT, (4, 2, 1), (4, 1)])
def test_only_the_upper_bits_need_x_in_full(widths: tuple[int, ...], vnni: bool) -> None:
    if vnni and not has_vnni():
        pytest.skip("this CPU has no VNNI")
    check([packed(widths, (4, 21, 384), 4)], 9, 2, 0.006, vnni=vnni)


@pytest.mark.parametrize("num_columns", [1, 8, 100, 128, 130, 999])
@pytest.mark.parametrize("widths", [(1,), (2,), (4,), (8,), SPLIT])
def test_rows_of_any_length_are_multiplied(widths: tuple[int, ...], num_columns: int) -> None:
    check([packed(widths, (2, 9, num_columns))], 5, 1, FINE)


@pytest.mark.parametrize("dots", [False, True])
@pytest.mark.parametrize(("num_rows", "each"), [(1, 1), (1, 4), (7, 2), (70, 2)])
def test_the_parts_of_an_expert_add_up(num_rows: int, each: int, dots: bool) -> None:
    if dots and not parts(dots=None).has_dots:
        pytest.skip("this CPU does not multiply bfloat16")
    shape = (6, 50, 200)
    made = [
        dense(shape),
        factors(shape, 3, seed=1),
        packed((4, 4), shape, seed=2),
        packed((2, 1), shape, seed=3),
    ]
    check(made, num_rows, each, FINE, dots=dots)


@pytest.mark.parametrize("by_gaps", [False, True])
@pytest.mark.parametrize("num_rows", [1, 40])
def test_changed_weights_are_multiplied_as_if_the_matrix_were_whole(
    num_rows: int, by_gaps: bool
) -> None:
    made = changes((5, 30, 200), by_gaps=by_gaps)
    check([made], num_rows, 2, FINE)
    whole = LaidShelf(made.shelf.rows, DenseMatrices(made.dense.to(torch.bfloat16)), made.bias)
    entries, x = entries_of(2 * num_rows), bfloat16(num_rows, 200, seed=5)
    found = [parts().multiply(LaidShelves([one]), entries, x, 30) for one in (made.shelf, whole)]
    assert torch.equal(*found), "to the bit"


def test_a_pair_has_the_same_numbers_in_any_company_and_on_any_number_of_threads() -> None:
    shape = (6, 300, 256)
    made = [dense(shape), packed((4,), shape, 0, seed=1), factors(shape, 5, seed=2)]
    laid = LaidShelves([one.shelf for one in made])
    entries, x = entries_of(80), bfloat16(40, 256, seed=3)
    together = parts(2).multiply(laid, entries, x, 300)
    for row in (0, 17, 39):
        pairs = slice(2 * row, 2 * row + 2)
        alone = parts(1).multiply(laid, entries[pairs].clone(), x[row : row + 1].clone(), 300)
        assert torch.equal(alone, together[pairs])


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("is_fine", [False, True])
def test_what_is_no_number_stays_with_its_row(bad: float, is_fine: bool) -> None:
    made = packed((4,), (1, 16, 256), 4 if is_fine else 0)
    shelf = LaidShelf(torch.zeros((3, 8), dtype=torch.int64), made.shelf.matrix)
    x = bfloat16(2, 256, seed=1)
    x[0, 5] = bad
    found = parts().multiply(LaidShelves([shelf]), torch.tensor([0, 0]), x, 16)
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


@pytest.mark.parametrize("size", [1e-38, 1e36])
@pytest.mark.parametrize("is_fine", [False, True])
def test_very_small_and_very_large_rows_give_numbers(size: float, is_fine: bool) -> None:
    made = packed((4,), (1, 16, 128), 4 if is_fine else 0)
    shelf = LaidShelf(torch.zeros((3, 8), dtype=torch.int64), made.shelf.matrix)
    x = torch.zeros((1, 128), dtype=torch.bfloat16)
    x[0, 3] = size
    found = parts().multiply(LaidShelves([shelf]), torch.tensor([0]), x, 16)
    wanted = made.dense[0] @ x[0].double()
    assert torch.allclose(found[0].double(), wanted, rtol=0.02, atol=1e-32)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_nothing_behind_the_last_codes_is_read(width: int) -> None:
    """The codes end where a page ends, and the next page may not be read."""
    made = packed((width,), (1, 3, 100))
    assert isinstance(made.shelf.matrix, Planes)
    codes, page = made.shelf.matrix.planes[0].codes, mmap.PAGESIZE
    pages = mmap.mmap(-1, 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(start + page), ctypes.c_size_t(page), 0) == 0
    whole = torch.frombuffer(pages, dtype=torch.uint8)
    held = whole[page - codes.numel() : page].view(codes.shape)
    held.copy_(codes)
    moved = Planes([Plane(held, width)], made.shelf.matrix.scales, 8)
    shelf = LaidShelf(torch.zeros((3, 8), dtype=torch.int64), moved)
    x = bfloat16(1, 100, seed=1)
    found = parts().multiply(LaidShelves([shelf]), torch.tensor([0]), x, 3)
    wanted = made.dense[0] @ x[0].double()
    assert (found[0].double() - wanted).abs().max() <= FINE * wanted.abs().max()


def test_no_pairs_give_no_numbers() -> None:
    laid = LaidShelves([dense((1, 4, 8)).shelf])
    nothing = torch.empty(0, dtype=torch.int64)
    assert parts().multiply(laid, nothing, bfloat16(0, 8, seed=0), 4).shape == (0, 4)


GATES = [
    Gate(math.inf, 1.0, 0.0, by_turns=False),
    Gate(0.5, 1.702, 1.0, by_turns=True),
    Gate(0.5, 1.702, 1.0, by_turns=False),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("num_columns", "num_neurons"), [(160, 144), (37, 27), (8, 300)])
def test_experts_are_two_products_with_a_gate_between_them_and_a_sum_behind(
    num_columns: int, num_neurons: int, gate: Gate, dtype: torch.dtype
) -> None:
    code = parts(2)
    first = [
        dense((5, 2 * num_neurons, num_columns)),
        packed((4,), (4, 2 * num_neurons, num_columns)),
    ]
    second = [dense((5, num_columns, num_neurons)), packed((4,), (4, num_columns, num_neurons))]
    laid = LaidExperts(
        LaidShelves([one.shelf for one in first]),
        LaidShelves([one.shelf for one in second]),
        gate,
        num_neurons,
    )
    entries, x = entries_of(27), bfloat16(9, num_columns, seed=3) * 8
    weights = torch.rand((9, 3), generator=torch.Generator().manual_seed(5)).to(dtype)
    inner = gated(gate, code.multiply(laid.first, entries, x, 2 * num_neurons))  # (27, N)
    outer = code.multiply(laid.second, entries, inner, num_columns).view(9, 3, -1)
    wanted = (outer * weights.unsqueeze(-1)).sum(1)
    found = code.experts(laid, entries, x, weights)
    assert (found.float() - wanted.float()).abs().max() <= 0.01 * wanted.abs().max()


def test_rows_have_the_same_experts_in_any_company_and_on_any_number_of_threads() -> None:
    first, second = packed((4, 4), (6, 300, 256), 4), packed((2,), (6, 256, 150), 0)
    laid = LaidExperts(LaidShelves([first.shelf]), LaidShelves([second.shelf]), GATES[0], 150)
    entries, x = entries_of(80), bfloat16(40, 256, seed=3)
    weights = bfloat16(40, 2, seed=4)
    together = parts(2).experts(laid, entries, x, weights)
    for row in (0, 17, 39):
        own = slice(2 * row, 2 * row + 2)
        alone = parts(1).experts(
            laid, entries[own].clone(), x[row : row + 1].clone(), weights[row : row + 1]
        )
        assert torch.equal(alone[0], together[row])


def test_experts_of_any_formats_are_one_call() -> None:
    shape = (3, 64, 128)
    widths = [*WIDTHS.values(), SPLIT]
    made = [
        *(packed(each, shape) for each in widths),
        dense(shape),
        *(factors(shape, r) for r in (2, 5)),
    ]
    assert len(made) == 12
    code = parts()
    first = LaidShelves([one.shelf for one in made])
    second = LaidShelves([packed((4,), (3, 128, 32)).shelf])
    x, weights = bfloat16(4, 128, seed=1), bfloat16(4, 2, seed=2)
    laid = LaidExperts(first, second, GATES[0], 32)
    code.experts(laid, entries_of(8), x, weights)
    before = code.num_calls
    code.experts(laid, entries_of(8), x, weights)
    assert code.num_calls == before + 1
