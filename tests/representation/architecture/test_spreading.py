"""Vectors of modules around attention are spread over tokens where they scale or shift alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.mixtral import modeling_mixtral

from representation.architecture.anatomy import Anatomy, study
from representation.architecture.config import config_of
from representation.architecture.errors import Unservable
from tests.support.checkpoints import tiny_config

Use = Callable[[Any, torch.Tensor], torch.Tensor]


def studied(use: Use, monkeypatch: pytest.MonkeyPatch, length: int = 1) -> Anatomy:
    """A Mixtral whose decoder layers have a vector, which `use` puts to what comes out of them."""

    class Scaled(modeling_mixtral.MixtralDecoderLayer):
        def __init__(self, config: Any, layer_idx: int) -> None:
            super().__init__(config, layer_idx)
            self.scale = nn.Parameter(torch.ones(length))

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return use(self, super().forward(*args, **kwargs))

    monkeypatch.setattr(modeling_mixtral, "MixtralDecoderLayer", Scaled)
    return study(config_of(tiny_config("mixtral").to_dict()), torch.float32)


SPREAD: dict[str, Use] = {
    "times": lambda self, x: x * self.scale,
    "times, in place": lambda self, x: x.mul_(self.scale),
    "plus": lambda self, x: self.scale + x,
    "minus": lambda self, x: x - self.scale,
}
OTHERS: dict[str, Use] = {
    "a part": lambda self, x: x * self.scale[0],
    "a sum": lambda self, x: x * self.scale.sum(),
    "shares": lambda self, x: x * self.scale.softmax(0),
    "another axis": lambda self, x: x.unsqueeze(-2) * self.scale,
    "a matrix": lambda self, x: nn.functional.linear(x, self.scale.expand(32, 32)),
}


@pytest.mark.parametrize("length", [1, 32])
@pytest.mark.parametrize("use", SPREAD)
def test_a_vector_that_scales_or_shifts_is_spread(
    use: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = studied(SPREAD[use], monkeypatch, length)
    assert found.vectors == {f"model.layers.{n}": ("scale",) for n in range(3)}
    assert "model.layers.0.scale" in found.tensors


@pytest.mark.parametrize("use", OTHERS)
def test_a_vector_that_is_put_to_any_other_use_is_refused(
    use: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unservable, match=r"mixes tokens and uses 'scale' itself|cannot be traced"):
        studied(OTHERS[use], monkeypatch, 32)


def test_a_buffer_of_one_number_has_the_value_that_loading_gives_it() -> None:
    found = study(config_of(tiny_config("gemma4").to_dict()), torch.float32)
    table = found.model.get_input_embeddings()
    assert float(table.embed_scale) == pytest.approx(32**0.5)


def test_a_number_that_nothing_sets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    own = modeling_mixtral.MixtralRMSNorm.__init__

    def counting(self: Any, *args: Any, **kwargs: Any) -> None:
        own(self, *args, **kwargs)
        self.register_buffer("count", torch.tensor(1.0), persistent=False)

    monkeypatch.setattr(modeling_mixtral.MixtralRMSNorm, "__init__", counting)
    with pytest.raises(Unservable, match="computes its own buffer 'count'"):
        study(config_of(tiny_config("mixtral").to_dict()), torch.float32)
