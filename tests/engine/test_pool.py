"""One layer of a pool: sums over shelves, whatever shape the experts have."""

from typing import Any

import pytest
import torch

from serve_app.engine.grouped import grouped_linear
from tests.engine.pooling import assert_as_by_themselves, filled_layer
from tests.support.checkpoints import tiny_model
from tests.support.mixes import MIXES, Mix, MixedSource, in_turn

NON_GATED: dict[str, Any] = {
    "layers_block_type": ["attention", "moe"],
    "num_hidden_layers": 2,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "head_dim": 8,
}
"""Fields of a nemotron_h whose experts have no gate."""


def layers_of(source: MixedSource, models: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A source's first layer, and the experts modules that its parts add up to."""
    path = source.layers[0].module
    found = {name: m.get_submodule(path) for name, m in source.references(models).items()}
    return filled_layer(source, 0, found["m1"]), found


@pytest.mark.parametrize("mix", MIXES)
def test_experts_without_a_gate_are_sums_of_parts_too(mix: str) -> None:
    models = {f"m{seed}": tiny_model("nemotron_h", seed, **NON_GATED) for seed in (1, 2)}
    layer, experts = layers_of(MixedSource("r1", models, in_turn(mix)), models)
    assert not experts["m1"].has_gate
    assert_as_by_themselves(layer, experts, [0] * 9 + [1] * 5)


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss"])
def test_padding_instead_of_counting_gives_the_same(architecture: str) -> None:
    models = {f"m{seed}": tiny_model(architecture, seed) for seed in (1, 2, 3)}
    mixes = [Mix("dense", ("rank-3",), "m1"), Mix("dense"), Mix("dense", ("rank-5", "rank-4"))]
    source = MixedSource("r1", models, lambda model, _, expert: mixes[(expert + len(model)) % 3])
    layer, experts = layers_of(source, models)
    for shelf in layer.shelves.values():
        shelf.pads = True
    assert_as_by_themselves(layer, experts, [0] * 4 + [1] * 7 + [2])


@pytest.mark.parametrize(("rows", "columns"), [(8, 12), (6, 12), (8, 10), (1, 3), (5, 1)])
@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_of_any_width_are_multiplied(rows: int, columns: int, transposed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn((4, rows, columns), generator=generator)
    x = torch.randn((7, columns), generator=generator)
    ends = torch.tensor([2, 2, 6, 7], dtype=torch.int32)
    given = weight.transpose(1, 2).contiguous() if transposed else weight
    found = grouped_linear(x, given, ends, transposed=transposed)
    groups = [0, 0, 2, 2, 2, 2, 3]
    expected = torch.stack([weight[g] @ row for g, row in zip(groups, x, strict=True)])
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
