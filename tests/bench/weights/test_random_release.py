"""Random releases are served as any other."""

import pytest
import torch

from serve_app.bench.weights.random_release import RandomRelease
from serve_app.errors import ConfigError
from tests.bench.tiny import tiny_config
from tests.engine.running import answer, engine_of, greedy_requests


@pytest.mark.parametrize(
    ("parts", "residuals"),
    [
        ("dense", ()),
        ("packed-4-16", ()),
        ("dense", ("packed-1-16", "rank-4")),
        ("packed-4-16@gate_up_proj+dense@down_proj", ("rank-4",)),
    ],
)
@pytest.mark.parametrize("merged", [True, False])
def test_every_model_of_a_random_release_answers(
    parts: str, residuals: tuple[str, ...], merged: bool
) -> None:
    config = tiny_config(vocab_size=4000)
    source = RandomRelease(config, 3, parts=parts, residuals=residuals, merged=merged)
    engine = engine_of(source)
    found = answer(engine, greedy_requests(source.models, [7], 24, release=source.id))
    texts = {name: one.tokens for name, one in found.items()}
    engine.close()
    assert len(texts) == len({tuple(tokens) for tokens in texts.values()}) == 3
    assert all(len(set(tokens)) > 6 for tokens in texts.values()), "the text collapsed"


def test_models_share_slots_where_they_are_merged_and_not_otherwise() -> None:
    merged = RandomRelease(tiny_config(), 3)
    apart = RandomRelease(tiny_config(), 3, merged=False)
    assert [len(layer.slots) for layer in merged.layers] == [4, 4]
    assert [len(layer.slots) for layer in apart.layers] == [12, 12]
    assert merged.models["m0"].expert_map == merged.models["m2"].expert_map
    assert apart.models["m2"].expert_map[0] == (8, 9, 10, 11)


def test_slots_in_parts_have_one_for_each_matrix() -> None:
    parts = "packed-3-16@gate_up_proj+packed-4-16@down_proj"
    source = RandomRelease(tiny_config(), 2, parts=parts)
    assert source.models["m1"].expert_map[0] == (0, 2, 4, 6)
    assert [part.others for part in source.layers[0].slots[2:4]] == [(3,), ()]
    assert [part.matrices for part in source.layers[0].slots[:2]] == [
        ("gate_up_proj",),
        ("down_proj",),
    ]
    with pytest.raises(ConfigError, match="has parts for down_proj, not gate_up_proj, down_proj"):
        RandomRelease(tiny_config(), 1, parts="packed-4-16@down_proj")


def test_residuals_are_each_models_own() -> None:
    source = RandomRelease(tiny_config(), 2, residuals=("rank-2", "packed-1-16"))
    of_m1 = source.models["m1"].residual_map[0]
    assert of_m1 == ((4, 12), (5, 13), (6, 14), (7, 15))
    assert source.layers[0].residuals[4].format == "rank-2"
    assert source.layers[0].residuals[12].format == "packed-1-16"


def test_the_same_seed_gives_the_same_weights_and_another_gives_others() -> None:
    one, two, other = (RandomRelease(tiny_config(), 2, seed=seed) for seed in (0, 0, 1))
    for name, tensor in one.read_slot(1, 3).items():
        assert torch.equal(tensor, two.read_slot(1, 3)[name])
        assert not torch.equal(tensor, other.read_slot(1, 3)[name])
    backbones = [dict(one.read_backbone(model)) for model in ("m0", "m1")]
    assert not torch.equal(*(b["lm_head.weight"] for b in backbones))


def test_a_format_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="packed-9-1"):
        RandomRelease(tiny_config(), 1, parts="packed-9-1")
    with pytest.raises(ConfigError, match="no random weights in format 'sparse-8'"):
        RandomRelease(tiny_config(), 1, residuals=("sparse-8",))
