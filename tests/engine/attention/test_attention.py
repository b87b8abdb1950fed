"""Every form of attention gives what attention by the book gives; what differs is not used."""

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import pytest
import torch

from representation.architecture.attention import AttentionShape
from serve_app.engine.attention.flashinfer import FlashInfer
from serve_app.engine.attention.form import AttentionForm, Call
from serve_app.engine.attention.forms import PROBE_CHUNKS, FormChooser, makers, probe
from serve_app.engine.attention.gather import Gather
from serve_app.engine.attention.native import CompiledAttention, PagedNative
from serve_app.engine.attention.varlen import Varlen, varlen_form
from serve_app.engine.device.native.library import Native, library
from serve_app.engine.step.transfer import Milestone
from tests.engine import paged_kernels
from tests.engine.running import answer, assert_golden, engine_of, greedy_requests
from tests.support.checkpoints import tiny_model
from tests.support.sources import MemorySource

CPU = torch.device("cpu")
GROUPED = AttentionShape(query_heads=6, kv_heads=2, key_dim=8, value_dim=8)
SHAPES = {
    "grouped heads": GROUPED,
    "a head of keys for each": AttentionShape(3, 3, 8, 8),
    "one head of keys": AttentionShape(4, 1, 8, 8),
    "keys wider than values": AttentionShape(4, 2, 12, 8),
    "capped scores": AttentionShape(4, 2, 8, 8, softcap=2.0),
    "many heads of odd dimensions": AttentionShape(9, 9, 35, 21, softcap=20.0),
    "many queries for a head": AttentionShape(10, 2, 48, 16),
}
STEPS = {
    "prompts and single tokens": PROBE_CHUNKS,
    "single tokens": ((1, 1), (1, 17), (1, 16), (1, 90), (1, 88)),
    "a long prompt": ((150, 150), (2, 31)),
    "equal chunks": ((9, 20), (9, 21), (9, 9)),
    "long sequences": ((1, 300), (70, 190), (3, 130)),
}


@pytest.fixture
def fake_varlen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", paged_kernels.varlen_attn)


def flashinfer() -> FlashInfer:
    return FlashInfer(paged_kernels.FlashInferWrapper, CPU)


def native(num_threads: int = 2) -> PagedNative:
    code = library()
    if code is None:
        pytest.skip("nothing was compiled, or this CPU has no AVX2")
    return PagedNative(CompiledAttention(Native(code, num_threads)))


def asked(
    shape: AttentionShape,
    step: str,
    window: int | None,
    *,
    sinks: bool,
    dtype: torch.dtype = torch.float32,
    block_size: int = 16,
) -> Call:
    return probe(shape, window, STEPS[step], block_size, dtype, CPU, sinks=sinks)


def assert_by_the_book(form: AttentionForm, call: Call) -> None:
    expected = paged_kernels.by_the_book(call)
    assert torch.allclose(form.attend(call), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [Gather, Varlen, flashinfer, native])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("window", [None, 7, 40])
def test_every_form_attends_by_the_book(
    make: Callable[[], AttentionForm], shape: str, window: int | None, fake_varlen: None
) -> None:
    wanted, form = SHAPES[shape], make()
    if isinstance(form, Varlen) and not varlen_can(wanted):
        return  # and is not chosen: see the next test
    for step, sinks in product(STEPS, [False, True]):
        assert_by_the_book(form, asked(wanted, step, window, sinks=sinks))


def varlen_can(shape: AttentionShape) -> bool:
    return shape.softcap is None and shape.key_dim == shape.value_dim


def chooser(*offered: tuple[str, Callable[[], AttentionForm]]) -> FormChooser:
    return FormChooser(offered, block_size=16, dtype=torch.float32, device=CPU)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_layer_gets_a_kernel_that_can_what_it_asks_and_gather_otherwise(
    shape: str, fake_varlen: None, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = SHAPES[shape]
    able = varlen_can(wanted)
    form = chooser(("varlen", Varlen)).form(wanted, 4096, sinks=True)
    assert isinstance(form, Varlen if able else Gather)
    assert able == (not caplog.records)


class Wrong(Gather):
    """A form that is wrong in one way."""

    name = "wrong"

    def __init__(self, spoil: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._spoil = spoil

    def attend(self, call: Call) -> torch.Tensor:
        return self._spoil(super().attend(call))


def _raises(_: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("no kernel image for this device")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda out: out * 1.01, "differs from 'gather' by"),
        (lambda out: out * float("nan"), "differs from 'gather' by nan"),
        (lambda out: out[:, :1], "it gives"),
        (_raises, "it fails: no kernel image for this device"),
    ],
)
def test_a_form_that_differs_is_named_and_not_used(
    spoil: Callable[[torch.Tensor], torch.Tensor], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    choose = chooser(("wrong", lambda: Wrong(spoil)), ("flashinfer", flashinfer))
    assert isinstance(choose.form(GROUPED, None, sinks=False), FlashInfer)
    assert words in caplog.text
    assert "'wrong'" in caplog.text
    caplog.clear()
    choose.form(GROUPED, None, sinks=False)
    assert not caplog.records, "layers that are alike are tried once"


def test_a_form_that_is_not_installed_is_passed_over_without_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    on_cuda = dict(makers(torch.device("cuda")))
    assert list(on_cuda) == ["flashinfer", "varlen"]
    assert list(dict(makers(CPU))) == ["native"]
    with caplog.at_level(logging.WARNING):
        form = chooser(("varlen", varlen_form)).form(GROUPED, None, sinks=False)
    assert isinstance(form, Gather)
    assert not caplog.records


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("window", [None, 7])
def test_compiled_attention_in_bfloat16_is_rounded_once(shape: str, window: int | None) -> None:
    form = native()
    for step, sinks in product(STEPS, [False, True]):
        call = asked(SHAPES[shape], step, window, sinks=sinks, dtype=torch.bfloat16)
        found = form.attend(call)
        assert found.dtype == torch.bfloat16
        exact = paged_kernels.by_the_book(replace(call, query=call.query.double()))
        error = (found.double() - exact).abs()
        assert (error <= exact.abs() * 2**-8 + 1e-5).all(), "half of the last of eight bits"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("step", STEPS)
def test_a_sequences_numbers_depend_neither_on_others_nor_on_threads(
    step: str, dtype: torch.dtype
) -> None:
    """Wide heads, so that there is work for several threads."""
    form, shape = native(num_threads=3), AttentionShape(16, 8, 128, 64)
    call = asked(shape, step, None, sinks=True, dtype=dtype)
    by_one = native(num_threads=1).attend(call)
    assert torch.equal(form.attend(call), by_one)
    paging = call.view.paging
    assert paging is not None
    assert call.sinks is not None
    for number, (start, end) in enumerate(pairwise(paging.host.starts)):
        alone = replace(
            paging,
            starts=torch.tensor([0, end - start], dtype=torch.int32),
            lengths=paging.lengths[number : number + 1],
            tables=paging.tables[number : number + 1],
            most_tokens=end - start,
        )
        own = replace(
            call,
            query=call.query[start:end],
            sinks=call.sinks[start:end],
            view=replace(call.view, paging=alone),
        )
        assert torch.equal(form.attend(own), by_one[start:end])


def test_compiled_attention_takes_queries_and_blocks_as_they_lie() -> None:
    form = native()
    call = asked(GROUPED, "prompts and single tokens", None, sinks=True, block_size=5)
    assert_by_the_book(form, call)
    for order in ((1, 0, 2), (2, 0, 1), (0, 2, 1)):
        back = [order.index(axis) for axis in range(3)]
        query = call.query.permute(order).contiguous().permute(back)
        assert torch.equal(form.attend(replace(call, query=query)), form.attend(call))


def test_scores_of_any_size_give_weights_that_sum_to_one() -> None:
    form = native()
    call = asked(GROUPED, "long sequences", None, sinks=False)
    call.store.values.fill_(1.0)
    for scaling in (0.0, 1e-6, 1e3, 1e30):
        found = form.attend(replace(call, scaling=scaling))
        assert torch.allclose(found, torch.ones_like(found), rtol=1e-5)


def test_what_is_not_a_number_stays_so_in_its_own_sequence() -> None:
    form = native()
    call = asked(GROUPED, "single tokens", None, sinks=False)
    query = call.query.clone()
    query[1] = float("nan")
    found = form.attend(replace(call, query=query))
    assert found.isnan().all(dim=(1, 2)).tolist() == [False, True, False, False, False]
    assert found.isnan().any(dim=(1, 2)).tolist() == [False, True, False, False, False]


def test_without_compiled_code_layers_on_the_cpu_get_the_plain_form(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serve_app.engine.attention.native.native", lambda: None)
    form = chooser(*makers(CPU)).form(GROUPED, None, sinks=False)
    assert isinstance(form, Gather)
    assert not caplog.records


def test_with_compiled_code_layers_on_the_cpu_get_it(caplog: pytest.LogCaptureFixture) -> None:
    native()
    for dtype in (torch.float32, torch.bfloat16):
        choose = FormChooser(makers(CPU), block_size=16, dtype=dtype, device=CPU)
        for shape in SHAPES.values():
            assert isinstance(choose.form(shape, 4096, sinks=True), PagedNative)
    assert not caplog.records


def test_flashinfer_plans_once_for_layers_that_are_alike_in_a_step() -> None:
    form = flashinfer()
    before = paged_kernels.FlashInferWrapper.num_plans
    call = asked(GROUPED, "single tokens", None, sinks=False)
    for _ in range(3):
        form.attend(call)
    assert paged_kernels.FlashInferWrapper.num_plans == before + 1
    form.attend(asked(GROUPED, "equal chunks", None, sinks=False))
    assert paged_kernels.FlashInferWrapper.num_plans == before + 2


def test_flashinfer_plans_anew_once_the_device_has_what_it_planned_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The library copies its plan from memory on the host that the next plan overwrites."""
    log: list[str] = []
    plan = paged_kernels.FlashInferWrapper.plan

    def logged_plan(*args: Any, **options: Any) -> None:
        log.append("plan")
        plan(*args, **options)

    monkeypatch.setattr(paged_kernels.FlashInferWrapper, "plan", logged_plan)
    monkeypatch.setattr(Milestone, "wait", lambda _: log.append("wait"))
    form = flashinfer()
    for step in ("single tokens", "equal chunks"):
        form.attend(asked(GROUPED, step, None, sinks=False))
    assert log == ["plan", "wait", "plan"]


@pytest.fixture(params=["gather", "varlen", "flashinfer"])
def kernel(
    request: pytest.FixtureRequest, fake_varlen: None, monkeypatch: pytest.MonkeyPatch
) -> str:
    made: dict[str, Any] = {"gather": Gather, "varlen": Varlen, "flashinfer": flashinfer}
    offered = ((request.param, made[request.param]),)
    monkeypatch.setattr("serve_app.engine.model.replacing.makers", lambda _: offered)
    return str(request.param)


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss"])
def test_an_engine_with_another_form_answers_as_each_model_by_itself(
    kernel: str, architecture: str
) -> None:
    models = {f"m{seed}": tiny_model(architecture, seed) for seed in (1, 2)}
    engine = engine_of(MemorySource("r1", models), kv_tokens=256)
    assert [form.name for form in engine._packed.attention_forms] == [kernel]
    requests = greedy_requests(models, [5, 20], max_tokens=4)
    assert_golden(models, requests, answer(engine, requests))
    engine.close()
