"""Products are those of torch, but for rounding, whatever lies behind them."""

import pytest
import torch
from torch.nn import functional

from consolidation.arithmetic.float_products import product

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
