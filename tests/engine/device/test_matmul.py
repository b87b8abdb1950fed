"""Products are right whichever way they are computed."""

import pytest
import torch

from serve_app.engine.device import matmul
from serve_app.engine.device.grouped import Groups
from serve_app.engine.device.matmul import FEW_ROWS, Multiplier, widens_on
from serve_app.engine.device.native.library import Native, library
from serve_app.engine.device.native.products import Products
from serve_app.engine.request import Request
from tests.engine.running import GREEDY, ON_CPU, answer, engine_of, prompts
from tests.support.checkpoints import tiny_model
from tests.support.sources import MemorySource

CPU = torch.device("cpu")


def compiled(num_threads: int = 1) -> Native:
    code = library()
    if code is None:
        pytest.skip("nothing was compiled, or this CPU has no AVX2")
    return Native(code, num_threads)


def products(num_threads: int = 1, *, dots: bool) -> Products:
    code = compiled(num_threads)
    if dots and not Products(code).has_dots:
        pytest.skip("this CPU has no AVX-512 BF16")
    return Products(code, dots=dots)


def groups_of(counts: list[int], *, known: bool) -> Groups:
    ends = torch.tensor(counts).cumsum(0).to(torch.int32)
    return Groups.counted(counts) if known else Groups(ends=ends)


@pytest.mark.parametrize(("rows", "columns"), [(8, 12), (6, 12), (8, 10), (1, 3), (5, 1)])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_matrices_of_any_width_are_multiplied(
    rows: int, columns: int, transposed: bool, known: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn((4, rows, columns), generator=generator)
    x = torch.randn((7, columns), generator=generator)
    given = weight.transpose(1, 2).contiguous() if transposed else weight
    groups = groups_of([2, 0, 4, 1], known=known)
    found = Multiplier(CPU).grouped(x, given, groups, transposed=transposed)
    matrices = [0, 0, 2, 2, 2, 2, 3]
    expected = torch.stack([weight[g] @ row for g, row in zip(matrices, x, strict=True)])
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("way", ["native", "widened", "compiled", "compiled if few"])
def test_products_in_bfloat16_are_rounded_once(
    way: str, with_bias: bool, transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul, "SCRATCH_VALUES", 48 * 10)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(torch.bfloat16)

    counts = [1, 0, FEW_ROWS - 1, FEW_ROWS, 50]
    num = len(counts)
    weight, bias, x = random(num, 36, 48), random(num, 36), random(sum(counts), 48)
    given = weight.transpose(1, 2).contiguous() if transposed else weight
    code = compiled(num_threads=2) if way.startswith("compiled") else None
    multiplier = Multiplier(CPU, code, widens=way in ("widened", "compiled"))
    groups = groups_of(counts, known=True)
    found = multiplier.grouped(x, given, groups, bias if with_bias else None, transposed=transposed)
    assert found.dtype == torch.bfloat16
    for matrix, start, end in groups.runs or ():
        exact = x[start:end].double() @ weight[matrix].double().t()
        if with_bias:
            exact += bias[matrix].double()
        error = (found[start:end].double() - exact).abs()
        assert (error <= exact.abs() * 2**-8 + 1e-4).all(), "half of the last of eight bits"
    again = multiplier.grouped(x, given, groups, bias if with_bias else None, transposed=transposed)
    assert torch.equal(found, again)
    one = multiplier.linear(x[:20].view(4, 5, 48), weight[0], bias[0] if with_bias else None)
    wanted = torch.nn.functional.linear(x[:20], weight[0], bias[0] if with_bias else None)
    assert torch.allclose(one.view(20, 36), wanted, rtol=2**-7, atol=1e-2)


@pytest.mark.parametrize("dots", [False, True])
@pytest.mark.parametrize(
    ("num_outputs", "num_columns"), [(1, 1), (7, 9), (8, 16), (70, 100), (130, 33), (514, 160)]
)
def test_compiled_products_of_any_size_are_those_of_each_row_alone(
    num_outputs: int, num_columns: int, dots: bool
) -> None:
    code = products(dots=dots)
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn((3, num_outputs + 2, num_columns + 3), generator=generator)
    matrices = whole.to(torch.bfloat16)[:, 1:-1, :-3]  # as siblings are: of a larger matrix
    x = torch.randn((120, num_columns + 1), generator=generator).to(torch.bfloat16)[:, 1:]
    bias = torch.randn((3, num_outputs), generator=generator).to(torch.bfloat16)
    out = torch.full((120, num_outputs), 7.0, dtype=torch.bfloat16)
    runs = (2, 0, 1), (0, 1, 106), (1, 108, 120)
    code.multiply(x, matrices, Groups(runs).bounds, bias, out)
    assert (out[106:108] == 7).all(), "rows of no run"
    for matrix, start, end in runs:
        exact = x[start:end].double() @ matrices[matrix].double().t() + bias[matrix].double()
        error = (out[start:end].double() - exact).abs()
        assert (error <= exact.abs() * 2**-8 + 1e-4).all()
        for row in range(start, end):
            alone = torch.empty((1, num_outputs), dtype=torch.bfloat16)
            code.multiply(x[row : row + 1], matrices, Groups(((matrix, 0, 1),)).bounds, bias, alone)
            assert torch.equal(out[row], alone[0])


@pytest.mark.parametrize("dots", [False, True])
def test_compiled_products_do_not_depend_on_the_number_of_threads(dots: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn((9, 90, 512), generator=generator).to(torch.bfloat16)
    groups = Groups.counted([1, 40, 2, 0, 1, 1, 7, 1, 3])
    x = torch.randn((56, 512), generator=generator).to(torch.bfloat16)
    found = []
    for num_threads in (1, 2, 3):
        found.append(torch.full((56, 90), float("nan"), dtype=torch.bfloat16))
        code = products(num_threads, dots=dots)
        code.multiply(x, matrices, groups.bounds, None, found[-1])
    assert not found[0].isnan().any()
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("dots", [False, True])
def test_compiled_products_keep_what_is_not_a_number_and_what_is_too_large(dots: bool) -> None:
    code = products(dots=dots)
    numbers = torch.tensor([[float("nan")], [float("inf")], [-3.4e38]]).to(torch.bfloat16)
    out = torch.empty((3, 1), dtype=torch.bfloat16)
    ones = torch.ones((1, 1, 1), dtype=torch.bfloat16)
    code.multiply(numbers, ones, Groups.counted([3]).bounds, None, out)
    assert out[0].isnan()
    assert torch.equal(out[1:], numbers[1:])


def test_a_cpu_that_cannot_run_the_compiled_code_does_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "fma3": False})
    assert library.__wrapped__() is None


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_bw": False}, True),
        ({"architecture": "x86_64", "avx2": True, "avx512_bw": True}, False),
        ({"architecture": "aarch64"}, False),
    ],
)
def test_the_cpu_says_whether_matrices_are_widened(
    capabilities: dict[str, object], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert widens_on(CPU) is expected
    assert not widens_on(torch.device("meta"))


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_widened_or_not_an_engine_in_bfloat16_answers_alike(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(architecture, 1).to(torch.bfloat16)
    request = Request("a", "r1", "m1", prompts([40])[0], 0, GREEDY, prompt_logprobs=0)
    found = []
    for widens in (False, True):
        monkeypatch.setattr(matmul, "widens_on", lambda _, widens=widens: widens)
        engine = engine_of(MemorySource("r1", {"m1": model}, dtype="bfloat16"), config=ON_CPU)
        logprobs = answer(engine, [request])["a"].prompt_logprobs
        engine.close()
        assert logprobs is not None
        found.append(torch.tensor([each.logprob for each in logprobs[1:] if each is not None]))
    assert (found[0] - found[1]).abs().median() < 0.05
