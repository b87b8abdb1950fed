"""Every form of attention gives what attention by the book gives; what differs is not used."""

import logging
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch

from serve_app.engine.attention_forms.choice import PROBE_CHUNKS, FormChooser, makers, probe
from serve_app.engine.attention_forms.form import AttentionForm, Call
from serve_app.engine.attention_forms.gather import Gather
from serve_app.engine.attention_forms.paged_flashinfer import FlashInfer
from serve_app.engine.attention_forms.varlen import Varlen, varlen_form
from serve_app.engine.kv import AttentionShape
from serve_app.engine.transfer import Milestone
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
}
STEPS = {
    "prompts and single tokens": PROBE_CHUNKS,
    "single tokens": ((1, 1), (1, 17), (1, 16), (1, 90), (1, 88)),
    "a long prompt": ((150, 150), (2, 31)),
    "equal chunks": ((9, 20), (9, 21), (9, 9)),
}


@pytest.fixture
def fake_varlen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", paged_kernels.varlen_attn)


def flashinfer() -> FlashInfer:
    return FlashInfer(paged_kernels.FlashInferWrapper, CPU)


def asked(shape: AttentionShape, step: str, window: int | None, *, sinks: bool) -> Call:
    return probe(shape, window, STEPS[step], 16, torch.float32, CPU, sinks=sinks)


def assert_by_the_book(form: AttentionForm, call: Call) -> None:
    expected = paged_kernels.by_the_book(call)
    assert torch.allclose(form.attend(call), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [Gather, Varlen, flashinfer])
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
    assert makers(CPU) == ()
    with caplog.at_level(logging.WARNING):
        form = chooser(("varlen", varlen_form)).form(GROUPED, None, sinks=False)
    assert isinstance(form, Gather)
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


@pytest.fixture(params=["varlen", "flashinfer"])
def kernel(
    request: pytest.FixtureRequest, fake_varlen: None, monkeypatch: pytest.MonkeyPatch
) -> str:
    made: dict[str, Any] = {"varlen": Varlen, "flashinfer": flashinfer}
    offered = ((request.param, made[request.param]),)
    monkeypatch.setattr("serve_app.engine.packed.makers", lambda _: offered)
    return str(request.param)


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss"])
def test_an_engine_with_a_paged_kernel_answers_as_each_model_by_itself(
    kernel: str, architecture: str
) -> None:
    models = {f"m{seed}": tiny_model(architecture, seed) for seed in (1, 2)}
    engine = engine_of(MemorySource("r1", models), kv_tokens=256)
    assert [form.name for form in engine._packed.attention_forms] == [kernel]
    requests = greedy_requests(models, [5, 20], max_tokens=4)
    assert_golden(models, requests, answer(engine, requests))
    engine.close()
