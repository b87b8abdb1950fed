"""Each leaf gives what the module in whose place it is gives, and says so where it cannot."""

import logging
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from serve_app.engine.anatomy import study
from serve_app.engine.fitting import Fitter, equals_original
from serve_app.engine.leaves import Leaf, Stacks
from serve_app.engine.matmul import Multiplier
from serve_app.engine.originals import PerSegment, PerToken
from serve_app.engine.packed import allocate_stacks
from serve_app.engine.step import CurrentStep
from serve_app.engine.tracing import TRACED_TOKENS, Axes
from tests.support.checkpoints import ARCHITECTURES, tiny_config

CPU = torch.device("cpu")
TO_TUPLE = Axes((0,), (0, 0), (TRACED_TOKENS, 32), outputs_only=False)


def leaves_of(architecture: str, dtype: torch.dtype) -> dict[str, tuple[nn.Module, Axes, Leaf]]:
    """Each unit of a tiny model: its module, its axes, and the leaf that it gets."""
    anatomy = study(tiny_config(architecture), dtype)
    stacks = allocate_stacks(anatomy, 2, CPU)
    fitter = Fitter(CurrentStep(), stacks, Multiplier(CPU), CPU)
    found = {}
    for path, axes in anatomy.units.items():
        module = anatomy.model.get_submodule(path)
        names = {name: f"{path}.{name}" for name in module.state_dict()}
        found[path] = module, axes, fitter.leaf(path, module, names, axes)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_leaf_runs_once_per_model(architecture: str, dtype: torch.dtype) -> None:
    slow = [
        p for p, (*_, leaf) in leaves_of(architecture, dtype).items() if type(leaf) is PerSegment
    ]
    assert not slow


def test_routers_run_once_for_all_models() -> None:
    routers = {
        path: leaf
        for architecture in ("mixtral", "gpt_oss", "deepseek_v3", "phimoe")
        for path, (module, _, leaf) in leaves_of(architecture, torch.float32).items()
        if "Router" in type(module).__name__
    }
    assert routers
    assert all(type(leaf) is PerToken for leaf in routers.values())


class _Router(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.weight = nn.Parameter(torch.empty(8, 32))
            self.bias = nn.Parameter(torch.empty(8))

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x.float(), self.weight.float(), self.bias.float())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.scores(x)
        return scores, scores.topk(2, dim=-1)[1]


class _Turned(_Router):
    """Uses its matrix in another way than `F.linear`."""

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.t() + self.bias


class _Company(_Router):
    """What it gives depends on which tokens are there together."""

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias) - x.mean()


@pytest.mark.parametrize(("kind", "fits"), [(_Router, True), (_Turned, False), (_Company, False)])
def test_a_module_whose_code_does_more_than_the_fast_form_can_gets_the_slow_one(
    kind: type[_Router], fits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    module: Any = kind()
    stacks = {name: torch.zeros(2, *tensor.shape) for name, tensor in module.state_dict().items()}
    fitter = Fitter(CurrentStep(), Stacks(stacks, {}), Multiplier(CPU), CPU)
    with caplog.at_level(logging.WARNING):
        leaf = fitter.leaf("a.router", module, {name: name for name in stacks}, TO_TUPLE)
    assert type(leaf) is (PerToken if fits else PerSegment)
    assert ("a.router" in caplog.text) is not fits
    assert module.weight.is_meta, "what the module was lent is taken back"


def test_a_slow_form_equals_every_original() -> None:
    for module in (_Router(), _Turned(), _Company()):

        def make(*args: Any, module: nn.Module = module) -> PerSegment:
            step, stacks, names, axes = args
            return PerSegment(step, stacks, names, axes, module)

        assert equals_original(module, TO_TUPLE, make, CPU)
