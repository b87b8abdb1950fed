"""Products are those of torch, but for rounding, whatever lies behind them."""

import os
import sys
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from consolidation.arithmetic.float_products import filled_up, product
from consolidation.statistics.moments import Sums
from serve_app.bench.consolidate.stage_watch import held_bytes

WEIGHTS = {
    "plain": torch.randn(24, 40, generator=torch.Generator().manual_seed(0)),
    "transposed": torch.randn(40, 24, generator=torch.Generator().manual_seed(0)).T,
    "with gaps": torch.randn(24, 80, generator=torch.Generator().manual_seed(0))[:, :40],
}


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("shape", [(0, 40), (1, 40), (7, 40), (2, 3, 40)])
def test_a_product_and_its_gradient_are_those_of_torch(
    weight: torch.Tensor, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), requires_grad=True)
    other = x.detach().clone().requires_grad_()
    found, wanted = product(x, weight), functional.linear(other, weight)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    found.square().sum().backward()
    wanted.square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad, atol=1e-4, rtol=1e-4)


def test_other_types_and_weights_that_ask_for_gradients_are_torchs_own() -> None:
    x = torch.ones(2, 4, dtype=torch.bfloat16)
    assert product(x, torch.ones(3, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    weight = torch.ones(3, 4, requires_grad=True)
    product(torch.ones(2, 4), weight).sum().backward()
    assert weight.grad is not None


def test_a_row_s_product_does_not_depend_on_the_rows_beside_it() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(40, 256, generator=generator), torch.randn(96, 256, generator=generator)
    whole = product(x, weight)
    for count in (1, 2, 7, 16):
        assert torch.equal(product(x[:count], weight), whole[:count])
    assert torch.equal(product(x[5:6, None], weight), whole[5:6, None])


def test_there_are_few_numbers_of_rows_that_others_are_filled_up_to() -> None:
    numbers = {count: len(filled_up(torch.ones(count, 1))) for count in range(1, 1025)}
    assert all(0 <= found - count < max(8, count / 8) for count, found in numbers.items())
    assert len(set(numbers.values())) == 16 + 3 * 8
    filled = filled_up(torch.ones(9, 2))
    assert filled[:9].eq(1).all()
    assert filled[9:].eq(0).all()


def multiply(count: int) -> None:
    product(torch.ones(count, 64), torch.ones(32, 64))


def add_up(count: int) -> None:
    Sums.of(torch.ones(count, 64), torch.ones(count, 32))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("compute", [multiply, add_up])
def test_memory_does_not_grow_with_how_many_numbers_of_tokens_are_computed(
    compute: Callable[[int], None],
) -> None:
    compute(300)
    before = held_bytes([os.getpid()])
    for count in range(301, 401):
        compute(count)
    assert held_bytes([os.getpid()]) - before < 20e6
