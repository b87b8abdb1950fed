"""What compiled code does to rows is what torch does to them."""

import pytest
import torch
from torch.nn import functional as F

from serve_app.engine.device.native.library import Native, library
from serve_app.engine.device.native.rows import Rows


@pytest.fixture(params=[1, 3])
def rows(request: pytest.FixtureRequest) -> Rows:
    code = library()
    if code is None:
        pytest.skip("nothing was compiled, or this CPU has no AVX2")
    return Rows(Native(code, request.param))


def random(*shape: int, size: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(shape, generator=generator) * size).to(torch.bfloat16)


@pytest.mark.parametrize("shape", [(1, 5, 64), (1, 3, 1), (1, 7, 4, 30), (1, 40, 2048), (1, 0, 8)])
@pytest.mark.parametrize("size", [1.0, 1e-4, 1e4])
def test_a_norm_is_scaled_by_the_weights_of_each_token(
    rows: Rows, shape: tuple[int, ...], size: float
) -> None:
    x, weights = random(*shape, size=size), random(3, shape[-1])
    places = torch.arange(shape[1]) % 3
    found = rows.rms_norm(x, weights, places, 1e-5)
    wide = F.rms_norm(x.float(), x.shape[-1:], eps=1e-5).to(torch.bfloat16)
    each = weights[places].view(1, shape[1], *[1] * (len(shape) - 3), shape[-1])
    assert torch.allclose(found.float(), (wide * each).float(), rtol=2**-7, atol=0)


def test_a_norm_keeps_what_is_not_a_number(rows: Rows) -> None:
    x = random(1, 2, 9)
    x[0, 1, 4] = float("nan")
    found = rows.rms_norm(x, random(1, 9), torch.zeros(2, dtype=torch.int64), 1e-5)
    assert not found[0, 0].isnan().any()
    assert found[0, 1].isnan().all()
