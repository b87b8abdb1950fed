"""Each leaf gives what the module in whose place it is gives, and says so where it cannot."""

import logging
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from representation.architecture.anatomy import study
from representation.architecture.tracing.trace import TRACED_TOKENS, Axes
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.device.native.library import Native, native
from serve_app.engine.device.native.rows import Rows
from serve_app.engine.engine import Engine
from serve_app.engine.leaves.fitting import PROBE_PLACES, Fitter, difference
from serve_app.engine.leaves.leaves import Leaf, StackedRouter
from serve_app.engine.leaves.originals import PerSegment, PerToken
from serve_app.engine.stacks.arrivals import Arrival
from serve_app.engine.stacks.stacks import Stacks, allocate_stacks
from serve_app.engine.step.integers import Integers
from serve_app.engine.step.spans import Spans
from serve_app.engine.step.step import CurrentStep, StepView
from tests.engine.running import ON_CPU
from tests.support.checkpoints import ARCHITECTURES, tiny_config, tiny_model
from tests.support.sources import MemorySource

CPU = torch.device("cpu")
TO_TUPLE = Axes((0,), (0, 0), (TRACED_TOKENS, 32), stream="tokens")


def leaves_of(
    architecture: str, dtype: torch.dtype, code: Native | None = None
) -> dict[str, tuple[nn.Module, Axes, Leaf]]:
    """Each unit of a tiny model: its module, its axes, and the leaf that it gets."""
    anatomy = study(tiny_config(architecture), dtype)
    stacks = allocate_stacks(anatomy, 2, CPU)
    fitter = Fitter(CurrentStep(), stacks, Multiplier(CPU, code), CPU, code)
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


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("mixtral", StackedRouter),
        ("olmoe", StackedRouter),
        ("qwen3_moe", StackedRouter),
        ("gpt_oss", PerToken),  # has a bias, and chooses before it takes the softmax
        ("deepseek_v3", PerToken),
    ],
)
def test_routers_run_in_compiled_code_where_it_chooses_alike(
    architecture: str, kind: type[Leaf]
) -> None:
    code = native()
    if code is None:
        pytest.skip("nothing was compiled, or this CPU has no AVX2")
    leaves = leaves_of(architecture, torch.bfloat16, code)
    found = {type(leaf) for module, _, leaf in leaves.values() if hasattr(module, "top_k")}
    assert found == {kind}
    alike = leaves_of(architecture, torch.float32, code)
    assert {type(leaf) for module, _, leaf in alike.values() if hasattr(module, "top_k")} == {
        PerToken
    }


def test_a_router_that_weighs_otherwise_is_told() -> None:
    code = native()
    if code is None:
        pytest.skip("nothing was compiled, or this CPU has no AVX2")
    leaves = leaves_of("mixtral", torch.bfloat16, code)
    module, axes, _ = next(each for each in leaves.values() if hasattr(each[0], "top_k"))

    def told(*, sum_to_one: bool, rounds: bool) -> str | None:
        make = partial(
            StackedRouter,
            top_k=2,
            sum_to_one=sum_to_one,
            rounds=rounds,
            multiplier=Multiplier(CPU, code),
            rows=Rows(code),
        )
        return difference(module, axes, make, CPU)

    assert told(sum_to_one=True, rounds=False) is None
    assert "bfloat16" in (told(sum_to_one=True, rounds=True) or "")
    assert "differs" in (told(sum_to_one=False, rounds=False) or "")


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
    fitter = Fitter(CurrentStep(), Stacks.each_its_own(stacks), Multiplier(CPU), CPU)
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

        assert difference(module, TO_TUPLE, make, CPU) is None


SIBLINGS = {
    "mixtral": [["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]],
    "gpt_oss": [["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]],
    "deepseek_v3": [
        ["self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa"],
        ["mlp.gate_proj", "mlp.up_proj"],
    ],
    "qwen2_moe": [
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ["mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj", "mlp.shared_expert_gate"],
    ],
}
"""Of the first layer, in the order of calls."""


@pytest.mark.parametrize("architecture", SIBLINGS)
def test_layers_that_read_the_same_tensor_are_one_product(architecture: str) -> None:
    originals = tiny_model(architecture, 1)
    models = {"m1": originals, "m2": tiny_model(architecture, 2)}
    packed = Engine.open(MemorySource("r1", models), ON_CPU)._packed
    generator = torch.Generator().manual_seed(0)
    integers = Integers(CPU)
    spans = Spans.of(PROBE_PLACES, PROBE_PLACES, 2, integers)
    nothing = torch.empty(0, dtype=torch.int64)
    view = StepView(spans, spans, nothing, nothing, nothing, nothing)
    for paths in SIBLINGS[architecture]:
        layers = [f"model.layers.0.{path}" for path in paths]
        assert tuple(layers) in packed.siblings
        own = [originals.get_submodule(path) for path in layers]
        for path in layers:
            for name in originals.get_submodule(path).state_dict():
                stack = packed.stacks[f"{path}.{name}"]
                stack.copy_(torch.randn(stack.shape, generator=generator))
        x = torch.randn((1, len(PROBE_PLACES), own[0].in_features), generator=generator)
        with torch.no_grad(), packed.step.running(view):
            found = [packed._model.get_submodule(path)(x) for path in layers]
            alone = packed._model.get_submodule(layers[-1])(x)
        for path, module, got in zip(
            [*layers, layers[-1]], [*own, own[-1]], [*found, alone], strict=True
        ):
            weights = {n: packed.stacks[f"{path}.{n}"] for n in module.state_dict()}
            for token, place in enumerate(PROBE_PLACES):
                lent = {name: stack[place] for name, stack in weights.items()}
                wanted = torch.func.functional_call(module, lent, (x[:, token],))
                assert torch.allclose(got[:, token], wanted, rtol=1e-5, atol=1e-4)


def test_siblings_wait_for_the_weights_of_each_of_them() -> None:
    packed = Engine.open(MemorySource("r1", {"m1": tiny_model("gpt_oss", 1)}), ON_CPU)._packed
    (paths,) = [paths for paths in packed.siblings if paths[0].startswith("model.layers.1.")]
    asked: list[str] = []

    class Noted(Arrival):
        def wait(self, name: str) -> None:
            asked.append(name)

    packed.stacks.awaited = (Noted(),)
    integers = Integers(CPU)
    spans = Spans.of([0, 0], [0, 0], 1, integers)
    nothing = torch.empty(0, dtype=torch.int64)
    with packed.step.running(StepView(spans, spans, nothing, nothing, nothing, nothing)):
        packed._model.get_submodule(paths[0])(torch.zeros(1, 2, 32))
    assert sorted(asked) == sorted(f"{path}.{own}" for path in paths for own in ("weight", "bias"))
