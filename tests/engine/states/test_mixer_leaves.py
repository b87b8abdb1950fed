"""Mixers run packed where that proves equal to their own code, and else one after another."""

from functools import wraps
from typing import Any

import pytest
import torch
from transformers.models.qwen3_next import modeling_qwen3_next

from representation.architecture.tracing import Axes
from serve_app.engine.leaves.fitting import Fitter
from serve_app.engine.leaves.leaves import Leaf, Names
from serve_app.engine.leaves.originals import PerSegment
from serve_app.engine.states.by_sequence import BySequence
from serve_app.engine.states.convolution import convolve
from serve_app.engine.states.packed_mixer import PackedMixer
from tests.engine.running import answer, assert_golden, engine_of, greedy_requests
from tests.engine.test_hybrids import HYBRID, models_of
from tests.support.checkpoints import tiny_model
from tests.support.sources import MemorySource


def kinds_of(engine: Any) -> set[type]:
    modules = engine.packed._model.modules()
    return {type(module) for module in modules if isinstance(module, BySequence | PackedMixer)}


@pytest.mark.parametrize("architecture", HYBRID)
def test_every_mixer_of_the_families_that_are_tested_runs_packed(
    architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of(MemorySource("r1", models_of(architecture, 1)))
    assert kinds_of(engine) == {PackedMixer}
    assert not caplog.records
    engine.close()


@pytest.mark.parametrize(
    ("architecture", "wide"),
    [("qwen3_next", "dt_bias"), ("nemotron_h", "dt_bias"), ("lfm2_moe", "conv.conv.weight")],
)
def test_mixers_with_some_weights_in_float32_run_packed_in_fewer_bits(
    architecture: str, wide: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model(architecture, 1).bfloat16()
    held = [tensor for name, tensor in model.state_dict(keep_vars=True).items() if wide in name]
    for tensor in held:
        tensor.data = tensor.data.float()
    engine = engine_of(MemorySource("r1", {"m": model}, dtype="bfloat16"), dtype="bfloat16")
    stacks = [t for n, t in engine.packed.stacks.stacks().items() if wide in n]
    assert [stack.tensor.dtype for stack in stacks] == [torch.float32] * len(held)
    assert kinds_of(engine) == {PackedMixer}
    assert not caplog.records
    engine.close()


def test_a_part_that_runs_once_per_model_keeps_steps_from_being_captured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    works = Fitter.leaf

    def leaf(self: Fitter, path: str, module: Any, names: Names, axes: Axes) -> Leaf:
        if path.endswith("linear_attn.out_proj"):
            return PerSegment(self._step, self._stacks, names, axes, module)
        return works(self, path, module, names, axes)

    monkeypatch.setattr(Fitter, "leaf", leaf)
    engine = engine_of(MemorySource("r1", models_of("qwen3_next", 1)))
    assert kinds_of(engine) == {PackedMixer}
    assert "runs once per model" in (engine.packed.bound_to_host or "")
    engine.close()


@pytest.mark.parametrize("architecture", ["lfm2_moe", "qwen3_next"])
def test_a_mixer_whose_packed_form_differs_runs_by_its_own_code_and_says_so(
    architecture: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(*args: Any) -> torch.Tensor:
        return convolve(*args) * 1.1

    monkeypatch.setattr("serve_app.engine.states.packed_mixer.convolve", wrong)
    models = models_of(architecture, 2)
    engine = engine_of(MemorySource("r1", models))
    assert kinds_of(engine) == {BySequence}
    (warning,) = [each.getMessage() for each in caplog.records]
    assert "runs for one sequence after another: packed, in step 1, it differs by" in warning
    requests = greedy_requests(models, [5, 17], max_tokens=6)
    assert_golden(models, requests, answer(engine, requests))
    engine.close()


def _needs_a_card(function: Any) -> Any:
    """As transformers wraps its functions where another package has its own."""

    @wraps(function)
    def kernel(*_: Any, **__: Any) -> Any:
        raise ValueError("no card")

    return kernel


@pytest.mark.parametrize("is_packed", [True, False])
def test_on_the_cpu_no_function_of_another_package_is_called(
    is_packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_packed:
        monkeypatch.setattr("serve_app.engine.states.mixer_leaves.can_be_packed", lambda *_: False)
    models = models_of("qwen3_next", 2)
    requests = greedy_requests(models, [5, 17], max_tokens=6)
    expected = answer(engine_of(MemorySource("r1", models)), requests)
    for name in (
        "causal_conv1d_fn",
        "causal_conv1d_update",
        "torch_chunk_gated_delta_rule",
        "torch_recurrent_gated_delta_rule",
    ):
        own = getattr(modeling_qwen3_next, name)
        monkeypatch.setattr(modeling_qwen3_next, name, _needs_a_card(own))
    engine = engine_of(MemorySource("r1", models))
    assert kinds_of(engine) == {PackedMixer if is_packed else BySequence}
    got = answer(engine, requests)
    assert {name: each.tokens for name, each in got.items()} == {
        name: each.tokens for name, each in expected.items()
    }
    engine.close()
