"""Mixers run packed where that proves equal to their own code, and else one after another."""

from functools import wraps
from typing import Any

import pytest
import torch
from transformers.models.qwen3_next import modeling_qwen3_next

from serve_app.engine.states.by_sequence import BySequence
from serve_app.engine.states.convolution import convolve
from serve_app.engine.states.packed_mixer import PackedMixer
from tests.engine.running import answer, assert_golden, engine_of, greedy_requests
from tests.engine.test_hybrids import models_of
from tests.support.sources import MemorySource


def kinds_of(engine: Any) -> set[type]:
    modules = engine.packed._model.modules()
    return {type(module) for module in modules if isinstance(module, BySequence | PackedMixer)}


@pytest.mark.parametrize("architecture", ["lfm2_moe"])
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
