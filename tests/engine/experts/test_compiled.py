"""Experts that are sums of parts, multiplied by compiled code for all shelves at once."""

import copy
from typing import Any

import pytest
import torch

from serve_app.engine.device.matmul import widens_on
from serve_app.engine.device.native.library import Native, library
from serve_app.engine.device.native.parts import CompiledParts
from serve_app.engine.experts.compiled import CompiledExperts
from serve_app.engine.experts.pool import PoolLayer
from serve_app.engine.experts.shelves import Shelf
from serve_app.engine.experts.shelving import ShelfMap
from serve_app.engine.step.integers import Integers
from serve_app.engine.step.spans import Spans
from serve_app.engine.step.step import StepView
from tests.engine.pooling import CPU, filled_layer
from tests.support.checkpoints import tiny_model
from tests.support.mixes import Mix, MixedSource, in_turn
from tests.support.sources import expert_paths

ROWS = [0] * 5 + [1] * 4 + [2]
"""The map row of each token."""

MIXES = {
    "dense slots": [Mix("dense")],
    "packed slots": [Mix("packed-4-128")],
    "slots of odd bits": [Mix("packed-3-128"), Mix("packed-7-128")],
    "slots with bits of each matrix": [
        Mix("packed-3-128@in+packed-4-128@down_proj", ("packed-2-128@down_proj",), "m1"),
        Mix("dense@in+split-8-128@down_proj", (), "m1"),
        Mix("packed-3-128@in+dense@down_proj", (), "m1"),
    ],
    "split bytes and a packed difference": [Mix("split-8-128", ("packed-2-128",), "m1")],
    "a dense base and differences": [
        Mix("dense", ("packed-1-128",), "m1"),
        Mix("dense", ("rank-3",), "m1"),
        Mix("dense"),
    ],
    "everything": [
        Mix("packed-8-128", ("rank-4", "packed-3-128"), "m2"),
        Mix("dense", ("packed-2-128",), "m1"),
        Mix("packed-2-128"),
    ],
}


def compiled(*, uses_int8: bool) -> CompiledExperts:
    code = library()
    if code is None:
        pytest.skip("nothing was compiled, or this CPU has no AVX2")
    return CompiledExperts(CompiledParts(Native(code, 2)), uses_int8=uses_int8)


def source_of(mixes: list[Mix]) -> tuple[MixedSource, dict[str, Any]]:
    """Models of 160 columns: more than one group, and a group that is not full."""
    sizes = {"hidden_size": 160, "intermediate_size": 144}
    models = {f"m{n}": tiny_model("mixtral", n, **sizes).to(torch.bfloat16) for n in (1, 2, 3)}
    turn = lambda model, layer, expert: mixes[(int(model[1:]) + layer + expert) % len(mixes)]  # noqa: E731
    return MixedSource("r1", models, turn, dtype="bfloat16"), models


def through(layer: PoolLayer, experts: Any) -> torch.Tensor:
    """Random tokens of three models through a layer. -> (T, H)"""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn((len(ROWS), 160), generator=generator).to(torch.bfloat16)
    chosen = torch.rand((len(ROWS), layer.shape.num_experts), generator=generator)
    weights, index = chosen.topk(2, dim=-1)
    spans = Spans.of(ROWS, ROWS, 3, Integers(CPU))
    nothing = torch.empty(0, dtype=torch.int64)
    view = StepView(spans, spans, nothing, nothing, nothing, nothing)
    with torch.no_grad(), layer.step.running(view):
        return layer.forward(experts, hidden, index, weights)


@pytest.mark.parametrize(("uses_int8", "allowed"), [(False, 0.01), (True, 0.03)])
@pytest.mark.parametrize("mix", MIXES)
def test_one_call_gives_what_shelves_give_one_by_one(
    mix: str, uses_int8: bool, allowed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = compiled(uses_int8=uses_int8)
    source, models = source_of(MIXES[mix])
    experts = models["m1"].get_submodule(source.layers[0].module)
    expected = through(filled_layer(source, 0, experts, dtype=torch.bfloat16), experts)
    layer = filled_layer(source, 0, experts, dtype=torch.bfloat16, together=code)
    for method in ("pick_some", "pick_all"):
        monkeypatch.setattr(Shelf, method, lambda *_, **__: pytest.fail("shelf by shelf"))
    found = through(layer, experts)
    assert (found - expected).abs().max() <= allowed * expected.abs().max()
    assert not torch.equal(found, torch.zeros_like(found))


def test_experts_that_change_a_base_here_and_there_are_read_too() -> None:
    sizes = {"hidden_size": 160, "intermediate_size": 144}
    models = {"m1": tiny_model("mixtral", 1, **sizes).to(torch.bfloat16)}
    for name, part in (("m2", 0.06), ("m3", 0.5)):  # by gaps, and by a bitmap
        models[name] = copy.deepcopy(models["m1"])
        for path in expert_paths(models[name]):
            for own in models[name].get_submodule(path).parameters(recurse=False):
                is_new = torch.rand(own.shape, generator=torch.Generator().manual_seed(1)) < part
                own.data = torch.where(is_new, -own.data, own.data)
    held = {
        "m1": Mix("dense"),
        "m2": Mix("dense", ("sparse-112",), "m1"),
        "m3": Mix("dense", ("sparse-640",), "m1"),
    }
    source = MixedSource("r1", models, lambda model, _, __: held[model], dtype="bfloat16")
    experts = models["m1"].get_submodule(source.layers[0].module)
    expected = through(filled_layer(source, 0, experts, dtype=torch.bfloat16), experts)
    code = compiled(uses_int8=True)
    layer = filled_layer(source, 0, experts, dtype=torch.bfloat16, together=code)
    assert code.reads(layer.shelves)
    assert (through(layer, experts) - expected).abs().max() <= 0.01 * expected.abs().max()


def test_shelves_that_move_are_read_where_they_are() -> None:
    """Growing a shelf and mapping another model replaces tensors that the code has read."""
    source, models = source_of(MIXES["packed slots"])
    experts = models["m1"].get_submodule(source.layers[0].module)
    layer = filled_layer(
        source, 0, experts, dtype=torch.bfloat16, together=compiled(uses_int8=False)
    )
    before = through(layer, experts)
    [(key, shelf)] = layer.shelves.items()
    parts = shelf.maps[0].tolist()
    layer.grow(key, shelf.num_rows + 40)
    layer.set_map(9, {key: ShelfMap(parts, parts)})
    assert torch.equal(through(layer, experts), before)


@pytest.mark.parametrize(
    "mix", ["packed slots of their own", "a packed base and a packed difference"]
)
def test_groups_that_the_code_does_not_know_are_multiplied_shelf_by_shelf(mix: str) -> None:
    models = {f"m{n}": tiny_model("mixtral", n).to(torch.bfloat16) for n in (1, 2, 3)}
    source = MixedSource("r1", models, in_turn(mix), dtype="bfloat16")
    experts = models["m1"].get_submodule(source.layers[0].module)
    layer = filled_layer(
        source, 0, experts, dtype=torch.bfloat16, together=compiled(uses_int8=True)
    )
    assert layer._together is not None
    assert not layer._together.reads(layer.shelves)


def test_dense_parts_that_meet_many_rows_are_left_to_torch_where_it_is_fast() -> None:
    source, models = source_of(MIXES["dense slots"])
    experts = models["m1"].get_submodule(source.layers[0].module)
    code = compiled(uses_int8=True)
    layer = filled_layer(source, 0, experts, dtype=torch.bfloat16, together=code)
    most = (64 if code._parts.has_dots else 16) * layer.shape.num_experts
    assert code.pays_off(layer.shelves, most, 1)
    assert code.pays_off(layer.shelves, most + 1, 2)
    is_slow = widens_on(CPU)
    assert code.pays_off(layer.shelves, most + 1, 1) is is_slow


def test_a_layer_of_twelve_formats_is_one_call() -> None:
    labels = ["dense", "rank-3", "rank-5"]
    labels += [f"packed-{bits}-128" for bits in range(1, 9)] + ["split-8-128"]
    mixes = [Mix("dense", tuple(labels[first::3]), "m1") for first in (1, 2, 3)]
    source, models = source_of(mixes)
    experts = models["m1"].get_submodule(source.layers[0].module)
    code = compiled(uses_int8=True)
    layer = filled_layer(source, 0, experts, dtype=torch.bfloat16, together=code)
    through(layer, experts)  # makes room
    before = code._parts.num_calls
    through(layer, experts)
    assert len(layer.shelves) == 12
    assert code._parts.num_calls - before == 1
