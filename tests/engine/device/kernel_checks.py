"""Experts that are sums of parts through the kernels, against float64. On any device."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from serve_app.engine.device.kernels.part_launches import PartLaunches, SortedPairs
from serve_app.engine.device.kernels.part_tables import tables_of
from serve_app.engine.device.laid import (
    ChangedMatrices,
    DenseMatrices,
    FactorPairs,
    Gate,
    LaidShelf,
    Matrix,
    Plane,
    Planes,
)
from serve_app.engine.experts.gating import gated
from tests.engine.device.test_parts import Made, changes, dense, factors, packed

NUM_EXPERTS = 8
ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 1e-2}
"""Of the largest number."""

Routing = tuple[torch.Tensor, torch.Tensor]
"""The map row of each token, (T,), and its experts, (T, K)."""


def routing(num_tokens: int, top_k: int = 2, seed: int = 0) -> Routing:
    """Random tokens of three models."""
    generator = torch.Generator().manual_seed(100 * seed + num_tokens)
    rows = torch.randint(0, 3, (num_tokens,), generator=generator).sort().values
    return rows, torch.rand((num_tokens, NUM_EXPERTS), generator=generator).topk(top_k).indices


def twelve_formats(shape: tuple[int, int, int]) -> list[Made]:
    """Shelves of slots, then of what is added to them."""
    slots = [
        dense(shape, seed=1),
        packed((4,), shape, seed=2),
        packed((8,), shape, seed=3),
        packed((4, 4), shape, seed=4),
        packed((2, 1), shape, seed=5),
        changes(shape, by_gaps=True, seed=6),
        changes(shape, by_gaps=False, seed=7),
    ]
    added = [
        packed((1,), shape, seed=8),
        packed((2,), shape, seed=9),
        packed((4, 2, 1), shape, seed=10),
        factors(shape, 3, seed=11),
        factors(shape, 20, seed=13),
    ]
    return [*slots, *added]


def held(matrix: Matrix, dtype: torch.dtype, device: torch.device) -> Matrix:
    """The same parts, in a dtype and on a device."""
    match matrix:
        case DenseMatrices(matrices):
            return DenseMatrices(matrices.to(device, dtype))
        case FactorPairs(left, right):
            return FactorPairs(left.to(device, dtype), right.to(device, dtype))
        case ChangedMatrices(matrices, bases, starts, values, gaps, bits):
            return ChangedMatrices(
                matrices.to(device, dtype),
                bases.to(device),
                starts.to(device),
                values.to(device, dtype),
                None if gaps is None else gaps.to(device),
                None if bits is None else bits.to(device),
            )
        case Planes(planes, scales, fine_bits):
            own = [Plane(plane.codes.to(device), plane.width) for plane in planes]
            return Planes(own, scales.to(device), fine_bits)


def laid(made: Made, dtype: torch.dtype, device: torch.device) -> LaidShelf:
    """A shelf with biases as they are or, if they are the family's, in its dtype."""
    rows, bias = made.shelf.rows.to(device), made.bias.to(device)
    own = bias if bias.dtype == torch.float32 else bias.to(dtype)
    return LaidShelf(rows, held(made.shelf.matrix, dtype, device), own)


def transposed(shelf: LaidShelf) -> LaidShelf:
    """The same matrices, column by column."""
    match shelf.matrix:
        case DenseMatrices(matrices):
            return replace(shelf, matrix=DenseMatrices(matrices.mT.contiguous().mT))
        case ChangedMatrices(matrices) as changed:
            by_columns = matrices.mT.contiguous().mT
            return replace(shelf, matrix=replace(changed, matrices=by_columns))
    return shelf


def expected(made: Sequence[Made], routed: Routing, x: torch.Tensor) -> torch.Tensor:
    """(T * K, O) float64"""
    rows, index = routed
    entries = (rows[:, None] * NUM_EXPERTS + index).flatten().tolist()
    found = torch.zeros((len(entries), made[0].dense.shape[1]), dtype=torch.float64)
    for pair, entry in enumerate(entries):
        token = x[pair // index.shape[1]].double()
        for one in made:
            part = int(one.shelf.rows.view(-1)[entry])
            if part >= 0:
                found[pair] += one.dense[part] @ token + one.bias[part].double()
    return found


def check(
    made: Sequence[Made],
    routed: Routing,
    launches: PartLaunches,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.float32,
    gate: Gate | None = None,
    by_columns: bool = False,
) -> SortedPairs:
    """Both products of a layer: x gathered and results sorted, and the other way round."""
    shelves = [laid(one, dtype, device) for one in made]
    (tables,) = tables_of([[transposed(one) if by_columns else one for one in shelves]])
    num_outputs, num_columns = made[0].dense.shape[1:]
    rows, index = (one.to(device) for one in routed)
    pairs = launches.sort(tables, rows, index)
    order = pairs.order.long().cpu()
    assert sorted(order.tolist()) == list(range(index.numel()))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((len(rows), num_columns), generator=generator).to(dtype)
    wanted = expected(made, routed, x)
    through = wanted if gate is None else gated(gate, wanted)
    found = launches.multiply(tables, pairs, x.to(device), num_outputs, gathers=True, gate=gate)
    _assert_near(found, through[order], dtype)
    token_by_token = x[order // index.shape[1]].to(device)
    found = launches.multiply(tables, pairs, token_by_token, num_outputs, gathers=False)
    _assert_near(found, wanted, dtype)
    return pairs


def _assert_near(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> None:
    worst = (found.double().cpu() - wanted).abs().max()
    assert worst <= ROUNDING[dtype] * wanted.abs().max(), worst
