"""One layer of a pool: sums over shelves, whatever shape the experts have."""

from typing import Any

import pytest

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
    layer.counts = False
    assert_as_by_themselves(layer, experts, [0] * 4 + [1] * 7 + [2])
