import pytest
import torch

from representation.architecture.anatomy import study
from tests.support.checkpoints import tiny_config

ROUTER = "model.layers.1.mlp.gate.weight"
NORM = "model.layers.1.input_layernorm.weight"
HEAD = "lm_head.weight"


@pytest.mark.parametrize(
    ("architecture", "asked", "kept"),
    [
        ("deepseek_v3", [ROUTER, NORM, HEAD], [ROUTER]),
        ("glm4_moe", [ROUTER], [ROUTER]),
        ("mixtral", [ROUTER, NORM, HEAD], []),
        ("qwen3_moe", ["model.layers.1.self_attn.q_norm.weight"], []),
        ("gpt_oss", [NORM], [NORM]),
        ("deepseek_v3", ["no.such.tensor"], []),
    ],
)
def test_what_the_models_code_can_use_in_float32_stays_so(
    architecture: str, asked: list[str], kept: list[str]
) -> None:
    config = tiny_config(architecture)
    plain = study(config, torch.bfloat16)
    found = study(config, torch.bfloat16, asked)
    changed = [
        name for name, (_, dtype) in found.tensors.items() if dtype != plain.tensors[name][1]
    ]
    assert changed == kept
    for name in changed:
        assert found.tensors[name] == (plain.tensors[name][0], torch.float32)


def test_tensors_that_differ_in_their_layer_alone_are_one_case() -> None:
    names = [f"model.layers.{layer}.mlp.gate.weight" for layer in (1, 2)]
    found = study(tiny_config("deepseek_v3"), torch.bfloat16, names)
    assert {found.tensors[name][1] for name in names} == {torch.float32}


def test_in_float32_there_is_nothing_to_widen() -> None:
    config = tiny_config("mixtral")
    assert study(config, torch.float32, [ROUTER]).tensors == study(config, torch.float32).tensors
