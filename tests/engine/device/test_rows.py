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


@pytest.mark.parametrize("each_half", [False, True])
@pytest.mark.parametrize("dims", [(6, 2, 64, 64), (3, 1, 21, 8), (1, 1, 2, 2)])
def test_heads_are_turned_as_torch_turns_them(
    rows: Rows, dims: tuple[int, int, int, int], each_half: bool
) -> None:
    query_heads, kv_heads, dim, turned = dims
    q = random(1, 300, query_heads, dim).transpose(1, 2)  # as modules give them: by token
    k = random(1, kv_heads, 300, dim)
    cos, sin = random(2, 300, turned // (1 + each_half)).split(1)
    found = rows.rotate(q, k, cos, sin, each_half=each_half)
    for x, got in zip((q, k), found, strict=True):
        first, second, rest = x.split([turned // 2, turned // 2, dim - turned], dim=-1)
        other = torch.cat([-second, first], dim=-1)
        wide_cos, wide_sin = (torch.cat([a, a], dim=-1) if each_half else a for a in (cos, sin))
        wanted = torch.cat([first, second], dim=-1) * wide_cos + other * wide_sin
        assert torch.equal(got, torch.cat([wanted, rest], dim=-1))


@pytest.mark.parametrize("sum_to_one", [False, True])
@pytest.mark.parametrize("shape", [(1, 8), (40, 128), (3, 5), (0, 4)])
def test_the_largest_logits_are_chosen_with_their_shares(
    rows: Rows, shape: tuple[int, int], sum_to_one: bool
) -> None:
    order = torch.rand(shape, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    logits = (order / 8).to(torch.bfloat16)  # no two alike
    scores, chosen = rows.choose(logits, 3, sum_to_one=sum_to_one)
    wanted, index = torch.softmax(logits.float(), dim=-1).topk(3, dim=-1)
    if sum_to_one:
        wanted = wanted / wanted.sum(dim=-1, keepdim=True)
    assert torch.equal(chosen, index)
    assert torch.allclose(scores, wanted, rtol=1e-5)


def test_of_equal_logits_the_first_are_chosen_and_never_one_twice(rows: Rows) -> None:
    nan = float("nan")
    logits = torch.tensor(
        [[1.0, 2.0, 2.0, 2.0], [nan] * 4, [nan, 1.0, 2.0, 3.0], [nan, nan, nan, 5]]
    )
    _, chosen = rows.choose(logits.to(torch.bfloat16), 3, sum_to_one=True)
    assert chosen.tolist() == [[1, 2, 3], [0, 1, 2], [3, 2, 1], [3, 0, 1]]


@pytest.mark.parametrize("width", [1, 7, 16, 1023, 1024, 1041, 3000])
@pytest.mark.parametrize("shift", [0.0, -50.0, 50.0])
def test_the_likeliest_is_the_first_of_the_largest(rows: Rows, width: int, shift: float) -> None:
    logits = (random(9, width, size=3.0).float() + shift).round().to(torch.bfloat16)
    assert rows.likeliest(logits).tolist() == logits.float().numpy().argmax(axis=1).tolist()


@pytest.mark.parametrize("largest", [0.0, -0.0, -2.5, float("inf"), float("nan")])
def test_the_likeliest_is_found_among_negative_ones(rows: Rows, largest: float) -> None:
    logits = -random(4, 2000).abs() - 3
    where = torch.tensor([0, 1999, 1024, 700])
    logits[torch.arange(4), where] = largest
    logits[3, 1500] = largest
    logits[:, 1] = float("-inf")
    assert rows.likeliest(logits).tolist() == where.tolist()


def test_a_row_without_any_number_above_the_lowest_has_a_likeliest(rows: Rows) -> None:
    lowest = torch.full((2, 1100), float("-inf"), dtype=torch.bfloat16)
    lowest[1] = torch.tensor(-1, dtype=torch.int16).view(torch.bfloat16)  # no number, negative
    assert rows.likeliest(lowest).tolist() == [0, 0]
