"""Tests of the kernels for experts that are sums of parts, in Triton's interpreter, on the CPU.

Triton decides when it is imported whether it interprets, so `test_kernels.py` starts these in a
process of their own.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter

from serve_app.engine.device.kernels.part_launches import FEW, MANY, PartLaunches
from serve_app.engine.device.laid import Gate
from tests.engine.device.kernel_checks import check, routing, twelve_formats
from tests.engine.device.test_parts import Made, changes, dense, factors, packed

CPU = torch.device("cpu")
ONE_BY_ONE = PartLaunches(CPU, 1)
SHARING = PartLaunches(CPU, 30)
"""More programs than tiles, so that several take parts of one."""
SHAPE = (3, 40, 160)
"""Parts, outputs and columns: a block of lines and a group of columns that are not full."""

KINDS: dict[str, list[Made]] = {
    "planes of one bit": [packed((1,), SHAPE)],
    "planes of two bits": [packed((2,), SHAPE)],
    "planes of four bits": [packed((4,), SHAPE)],
    "planes of eight bits": [packed((8,), SHAPE)],
    "planes of all widths": [packed((4, 2, 1), SHAPE), packed((4, 4), SHAPE, seed=1)],
    "dense": [dense(SHAPE)],
    "factors": [dense(SHAPE), factors(SHAPE, 20, seed=3)],
    "changes by gaps": [changes(SHAPE, by_gaps=True)],
    "changes by a bitmap": [changes(SHAPE, by_gaps=False)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_each_kind_are_multiplied(kind: str) -> None:
    check(KINDS[kind], routing(3), ONE_BY_ONE, CPU)


def test_twelve_formats_add_up() -> None:
    check(twelve_formats((3, 40, 96)), routing(2), ONE_BY_ONE, CPU)


def test_a_single_token_is_shared_by_programs() -> None:
    made = [*KINDS["planes of all widths"], *KINDS["factors"], *KINDS["changes by gaps"]]
    check(made, routing(1), SHARING, CPU)


@pytest.mark.parametrize("kind", ["planes of all widths", "planes of eight bits", "factors"])
def test_bfloat16_is_multiplied_by_numbers_that_are_made_of_codes(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter multiplies the bits of bfloat16 as whole numbers; here they are widened."""
    multiply = interpreter.InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        return multiply(self, widened(a), widened(b), *others)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
    check(KINDS[kind], routing(3), SHARING, CPU, dtype=torch.bfloat16)


def widened(handle: Any) -> Any:
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    wide = (handle.data.astype(np.uint32) << 16).view(np.float32)
    return replace(handle, data=wide, dtype=tl.float32)


def test_many_pairs_of_a_part_take_large_tiles() -> None:
    made = [packed((4,), (1, 40, 32)), factors((1, 40, 32), 3, seed=2)]
    assert check(made, routing(5), ONE_BY_ONE, CPU).tile_m == FEW
    assert check(made, routing(80), ONE_BY_ONE, CPU).tile_m == MANY


def test_experts_without_parts_give_zeros_and_empty_shelves_nothing() -> None:
    made = [packed((4,), SHAPE), dense(SHAPE, seed=1)]
    for one in made:
        one.shelf.rows.fill_(-1)
    check(made, routing(3), ONE_BY_ONE, CPU)
    made[0].shelf.rows[1] = 2
    check(made, routing(3), ONE_BY_ONE, CPU)


def test_a_group_of_columns_may_be_a_quarter_full_and_there_may_be_many() -> None:
    short, long = (2, 16, 32), (2, 16, 640)
    check([packed((2, 1), short), packed((1,), short, seed=1)], routing(2), SHARING, CPU)
    check([packed((4,), long)], routing(2), SHARING, CPU)


def test_matrices_may_lie_column_by_column() -> None:
    made = [dense(SHAPE), changes(SHAPE, by_gaps=True, seed=2), packed((1,), SHAPE, seed=4)]
    check(made, routing(2), ONE_BY_ONE, CPU, by_columns=True)


@pytest.mark.parametrize(
    "gate",
    [
        Gate(math.inf, 1.0, 0.0, by_turns=False),
        Gate(0.5, 1.702, 1.0, by_turns=True),
        Gate(0.5, 1.0, 1.0, by_turns=False),
    ],
)
def test_what_comes_out_of_the_first_matrix_goes_through_the_gate(gate: Gate) -> None:
    check([packed((4,), (2, 80, 32))], routing(3), ONE_BY_ONE, CPU, gate=gate)


def test_the_rows_of_a_tokens_experts_are_added_with_their_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn((12, 700), generator=generator), torch.rand(4, 3, generator=generator)
    found = ONE_BY_ONE.add(x, weights)
    expected = (x.view(4, 3, 700) * weights.unsqueeze(-1)).sum(1)
    assert torch.allclose(found, expected, atol=1e-5)
