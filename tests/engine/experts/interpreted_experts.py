"""Layers of a pool by the kernels, in Triton's interpreter; `test_kernels.py` starts these.

What is launched can be seen here: how often, with which sizes, and whether it can be run again.
"""

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from triton.runtime import interpreter

from serve_app.engine.device.kernels.part_launches import PartLaunches
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.experts.gating import gate_of
from serve_app.engine.experts.launched import LaunchedExperts
from serve_app.engine.experts.pool import PoolLayer
from serve_app.engine.experts.together_choice import first_proven
from serve_app.engine.step.integers import Integers
from serve_app.engine.step.spans import Spans
from serve_app.engine.step.step import StepView
from tests.engine.pooling import CPU, assert_as_by_themselves, filled_layer
from tests.engine.recorded import READS
from tests.support.checkpoints import tiny_model
from tests.support.mixes import Mix, MixedSource
from tests.support.sources import expert_paths

LAUNCHES = PartLaunches(CPU, 2)
SIZES = {"hidden_size": 64, "intermediate_size": 32}
ROWS = [0] * 2 + [1] * 3
NO_LAUNCH = {"empty", "new_empty", "view", "slice", "select", "detach"}
"""Operations that only look at memory, or take some."""

ONE = [Mix("packed-4-128")]
TWELVE = [
    Mix("dense", ("rank-3",), "m1"),
    Mix("split-8-128", ("packed-2-128",), "m1"),
    Mix("packed-8-128", ("packed-1-128@down_proj",), "m1"),
    Mix("packed-3-128", ("split-5-128",), "m2"),
    Mix("dense", ("sparse-112",), "m1"),
    Mix("packed-4-128", ("rank-3@down_proj", "packed-3-128"), "m2"),
]

APART = [
    Mix("packed-4-128@in+packed-3-128@down_proj", ("rank-3@down_proj",), "m1"),
    Mix("packed-4-128@in+dense@down_proj", (), "m1"),
    Mix("packed-3-128", (), "m1"),
    Mix("dense@in+split-8-128@down_proj", ("packed-2-128",), "m1"),
]
"""Slots in parts, of which one expert of both models has one part the same, and not the other."""


@dataclass
class Seen(TorchDispatchMode):
    """The launches of kernels, and torch's operations that launch something."""

    kernels: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        assert name not in READS, f"{name} waits for the device"
        if name not in NO_LAUNCH:
            self.others.append(name)
        return func(*args, **(kwargs or {}))

    @property
    def shapes(self) -> list[object]:
        """Of everything that is handed to kernels, and numbers as they are."""
        return [
            (
                launch.grid,
                [tuple(one.shape) if isinstance(one, torch.Tensor) else one for one in all_],
            )
            for launch, args, kwargs in self.kernels
            for all_ in [(*args, *kwargs.values())]
        ]

    def replay(self) -> None:
        """Launches everything again, on the tensors that it was on."""
        for launch, args, kwargs in list(self.kernels):
            launch(*args, **kwargs)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    found = Seen()
    run = interpreter.GridExecutor.__call__

    def call(launch: Any, *args: Any, **kwargs: Any) -> None:
        found.kernels.append((launch, args, kwargs))
        with _disable_current_modes():
            run(launch, *args, **kwargs)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", call)
    return found


def layer_of(mixes: list[Mix], architecture: str = "mixtral") -> tuple[PoolLayer, dict[str, Any]]:
    """A layer that launches, and each model's experts. m2 is m1 but for some weights."""
    models = {"m1": tiny_model(architecture, 1, **SIZES)}
    models["m2"] = copy.deepcopy(models["m1"])
    for path in expert_paths(models["m2"]):
        for own in models["m2"].get_submodule(path).parameters(recurse=False):
            is_new = torch.rand(own.shape, generator=torch.Generator().manual_seed(1)) < 0.06
            own.data = torch.where(is_new, -own.data, own.data)
    turn = lambda model, _, expert: mixes[(3 * int(model[1:]) + 3 + expert) % len(mixes)]  # noqa: E731
    source = MixedSource("r1", models, turn)
    path = source.layers[0].module
    experts = {name: m.get_submodule(path) for name, m in source.references(models).items()}
    layer = filled_layer(source, 0, experts["m1"], together=LaunchedExperts(LAUNCHES))
    return layer, experts


def run(
    layer: PoolLayer,
    experts: Any,
    *inputs: torch.Tensor,
    watched: AbstractContextManager[object] | None = None,
) -> torch.Tensor:
    """inputs: hidden, index, weights and the map rows of tokens."""
    hidden, index, weights, rows = inputs
    spans = Spans.of(ROWS, ROWS, 2, Integers(CPU))
    nothing = torch.empty(0, dtype=torch.int64)
    spans = Spans(len(ROWS), (), spans.places, rows, spans.ends, anywhere=True)
    view = StepView(spans, spans, nothing, nothing, nothing, nothing)
    with torch.no_grad(), layer.step.running(view), watched or nullcontext():
        return layer.forward(experts, hidden, index, weights)


def inputs_of(layer: PoolLayer, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn((len(ROWS), SIZES["hidden_size"]), generator=generator)
    chosen = torch.rand((len(ROWS), layer.shape.num_experts), generator=generator)
    weights, index = chosen.topk(2, dim=-1)
    rows = torch.randint(0, 2, (len(ROWS),), generator=generator)
    return [hidden, index, weights, rows]


@pytest.mark.parametrize(
    ("architecture", "mixes"),
    [
        ("mixtral", ONE),
        ("mixtral", TWELVE),
        ("mixtral", APART),
        ("gpt_oss", [Mix("packed-4-128", ("rank-2",)), Mix("dense", ("sparse-640",), "m1")]),
    ],
    ids=["one format", "twelve formats", "slots in parts", "columns first, with biases"],
)
def test_a_layer_gives_what_each_models_experts_give(architecture: str, mixes: list[Mix]) -> None:
    layer, experts = layer_of(mixes, architecture)
    assert layer._computes_together(None, 2 * len(ROWS))
    assert_as_by_themselves(layer, experts, ROWS)


@pytest.mark.parametrize(
    ("mixes", "num_shelves", "most"), [(ONE, 1, 4), (TWELVE, 12, 6), (APART, 8, 6)]
)
def test_a_layer_takes_few_launches_whatever_the_formats(
    mixes: list[Mix], num_shelves: int, most: int, seen: Seen
) -> None:
    layer, experts = layer_of(mixes)
    assert len(layer.shelves) == num_shelves
    inputs = inputs_of(layer, 0)
    run(layer, experts["m1"], *inputs)
    seen.kernels.clear()
    run(layer, experts["m1"], *inputs, watched=seen)
    assert seen.others == []
    assert len(seen.kernels) <= most <= 6


def test_sizes_do_not_depend_on_what_tokens_choose(seen: Seen) -> None:
    layer, experts = layer_of(TWELVE)
    shapes = []
    for seed in (1, 2):
        seen.kernels.clear()
        run(layer, experts["m1"], *inputs_of(layer, seed))
        shapes.append(seen.shapes)
    assert shapes[0] == shapes[1]


def test_launches_can_be_run_again_on_other_tokens(seen: Seen) -> None:
    """As captured steps do: they launch what they hold, on the tensors that it was on."""
    layer, experts = layer_of(TWELVE)
    inputs = inputs_of(layer, 1)
    out = run(layer, experts["m1"], *inputs)
    seen.kernels.clear()
    out = run(layer, experts["m1"], *inputs)
    others = inputs_of(layer, 2)
    for held, new in zip(inputs, others, strict=True):
        held.copy_(new)
    seen.replay()
    assert torch.equal(out, run(layer, experts["m1"], *others))


def test_shelves_that_move_are_read_where_they_are() -> None:
    layer, experts = layer_of(ONE)
    inputs = inputs_of(layer, 1)
    before = run(layer, experts["m1"], *inputs)
    [(key, shelf)] = layer.shelves.items()
    layer.grow(key, 2 * shelf.num_rows + 3)
    assert torch.equal(run(layer, experts["m1"], *inputs), before)


@pytest.mark.parametrize("mixes", [TWELVE, APART], ids=["twelve formats", "slots in parts"])
def test_a_form_is_used_if_it_equals_the_plain_one(
    mixes: list[Mix], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.engine.experts.together_choice.TRIED_TOKENS", (3,))
    layer, experts = layer_of(mixes)
    module = experts["m1"]
    layers = [(module, layer.shape, dict.fromkeys(layer.shelves, 1))]
    multiplier, dtype = Multiplier(CPU), torch.float32

    def chosen(*makers: Any) -> Any:
        return first_proven(makers, layers, multiplier, dtype=dtype, device=CPU)()

    assert gate_of(module) is not None
    assert isinstance(chosen(lambda: LaunchedExperts(LAUNCHES)), LaunchedExperts)
    assert not caplog.records

    class Wrong(LaunchedExperts):
        def forward(self, *args: Any) -> torch.Tensor:
            return super().forward(*args) * 1.01

    assert chosen(lambda: Wrong(LAUNCHES)) is None
    assert "differs by 0.01" in caplog.text

    class Failing(LaunchedExperts):
        def forward(self, *args: Any) -> torch.Tensor:
            raise RuntimeError("out of resources: shared memory")

    assert chosen(lambda: Failing(LAUNCHES)) is None
    assert "they fail: out of resources" in caplog.text
