"""A recurrent mixer is served if sequences can begin, go on and be put together, unnoticed."""

import inspect
from functools import wraps
from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.jamba import modeling_jamba
from transformers.models.qwen3_next import modeling_qwen3_next

from representation.architecture.anatomy import study
from representation.architecture.errors import Unservable
from representation.architecture.trying import LENGTHS, takes_parts
from tests.support.checkpoints import tiny_config


class Sums(nn.Module):
    """Gives the sum of a sequence's tokens so far."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.empty(4))

    def first(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(len(x), 4)

    def forward(self, x: torch.Tensor, cache_params: Any = None) -> torch.Tensor:
        before = cache_params.get_recurrent_state(0)
        before = self.first(x) if before is None else before
        out = before[:, None] + (x * self.factor).cumsum(dim=1)
        cache_params.update_recurrent_state(out[:, -1], 0)
        return out


class Begun(Sums):
    def first(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor.expand(len(x), 4)


class Forgetful(Sums):
    def forward(self, x: torch.Tensor, cache_params: Any = None) -> torch.Tensor:
        out = super().forward(x, cache_params)
        cache_params.update_recurrent_state(x[:, -1], 0)
        return out


class Beginning(Sums):
    """Begins anew where it is given several tokens, as Jamba's does."""

    def forward(self, x: torch.Tensor, cache_params: Any = None) -> torch.Tensor:
        if x.shape[1] > 1:
            cache_params.tensors.clear()
        return super().forward(x, cache_params)


class Mingling(Sums):
    def forward(self, x: torch.Tensor, cache_params: Any = None) -> torch.Tensor:
        return super().forward(x - x.mean(dim=0) * (len(x) > 1), cache_params)


def tried(kind: type[nn.Module]) -> bool:
    with torch.device("meta"):
        mixer = kind()
    return takes_parts("layers.0.mixer", mixer, "cache_params", 4)


def test_a_mixer_that_keeps_all_that_it_needs_is_served() -> None:
    assert tried(Sums)


def test_one_that_goes_on_by_single_tokens_alone_takes_no_prompt_in_parts() -> None:
    assert not tried(Beginning)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Forgetful, "gives something else when tokens come one by one"),
        (Mingling, "gives something else when sequences run together"),
        (Begun, "begins with a state that is not zero"),
    ],
)
def test_another_is_refused_by_name_and_reason(kind: type[nn.Module], words: str) -> None:
    with pytest.raises(Unservable, match=rf"layers.0.mixer \({kind.__name__}\) {words}"):
        tried(kind)


def test_mixers_are_tried_without_functions_of_other_packages_that_need_a_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """transformers puts them in the place of its own, where they are installed."""
    names = ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule")
    for name in names:

        @wraps(getattr(modeling_qwen3_next, name))
        def on_a_device(*_: Any, **__: Any) -> Any:
            raise ValueError("the pointer is not one of a device")

        monkeypatch.setattr(modeling_qwen3_next, name, on_a_device)
    anatomy = study(tiny_config("qwen3_next", vocab_size=331), torch.float32)
    assert anatomy.recurrent
    mixers = map(anatomy.model.get_submodule, anatomy.recurrent)
    assert all("forward" not in vars(mixer) for mixer in mixers)


def test_a_loop_over_tokens_is_run_for_one_token_without_data_and_for_all_with_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For thousands of tokens, as a run without data has, it takes seconds for each layer."""
    loop: Any = inspect.unwrap(modeling_jamba.mamba_selective_scan)
    seen: set[tuple[bool, int]] = set()

    def watched(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.add((x.is_meta, x.shape[-1]))
        return loop(x, *args, **kwargs)

    monkeypatch.setattr(modeling_jamba, "mamba_selective_scan", watched)
    anatomy = study(tiny_config("jamba", mamba_d_state=9), torch.float32)
    assert {length for is_meta, length in seen if is_meta} == {1}
    assert {length for is_meta, length in seen if not is_meta} >= set(LENGTHS)
    shapes = [
        [(state.shape, state.dtype) for state in mixer.states.values()]
        for mixer in anatomy.recurrent.values()
    ]
    assert shapes == [[((64, 4), torch.float32), ((64, 9), torch.float32)]] * 2
