"""Releases are asked on a real engine before anybody else may ask them."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from consolidation.release import Golden
from consolidation.statistics.windows import Window
from serve_app.engine.engine import Engine
from serve_app.engine.loop import EngineLoop
from serve_app.engine.request import Logprob
from serve_app.errors import BadRelease
from serve_app.serving.replica.defaults import ModelDefaults
from serve_app.serving.replica.prepare import ServedModel
from serve_app.serving.replica.verifying import Verification, golden_difference
from tests.engine.running import ON_CPU, own_answer, prompts
from tests.support.checkpoints import tiny_model
from tests.support.mixes import MixedSource, in_turn
from tests.support.sources import MemorySource, as_replicas_know
from tests.support.whole_models import golden_of


def golden(model: Any, seed: int = 0) -> Golden:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 300, (16,), generator=generator).tolist()
    return golden_of(model.float(), Window(tuple(tokens), 0))


def verified(source: Any, goldens: Mapping[str, Golden | None], **settings: Any) -> None:
    """Stages a release on an engine and verifies it. Raises what that raises."""
    config = replace(ON_CPU, kv_tokens=128, **settings)
    as_replicas_know(source, goldens)
    loop = EngineLoop(lambda wake: Engine.open(source, config, on_loaded=wake))
    try:
        loop.stage(source).result(60)
        models = [
            ServedModel(
                name,
                source.id,
                "encoder-decoder" if model.config.get("is_encoder_decoder") else "decoder",
                ModelDefaults.of(model.config, {}, None),
                int(model.config["vocab_size"]),
                loop.context_length(source.id, name),
                loop.longest_prompt(source.id, name),
                None,
            )
            for name, model in source.models.items()
        ]
        asyncio.run(Verification(source, models).all(loop, may_lack=False))
    finally:
        loop.close()


MODELS = {f"m{seed}": tiny_model("mixtral", seed) for seed in (1, 2)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_that_answer_as_their_release_says_are_right(dtype: str) -> None:
    goldens = {name: golden(model) for name, model in MODELS.items()}
    verified(MemorySource("r1", MODELS), goldens, dtype=dtype, num_places=1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_so_are_experts_in_every_format(dtype: str) -> None:
    source = MixedSource("r1", MODELS, in_turn("every expert in its own way"))
    goldens = {name: golden(model) for name, model in source.references(MODELS).items()}
    verified(source, goldens, dtype=dtype)


def test_where_one_step_computes_a_prompt_as_much_is_verified_as_a_step_can_compute() -> None:
    models, step = {"m1": tiny_model("jamba", 1)}, {"step_tokens": 28, "max_sequences": 8}
    right, wrong = golden(models["m1"]), golden(tiny_model("jamba", 2))
    assert len(right.prompt) < 20 < len(right.prompt + right.tokens)
    verified(MemorySource("r1", models), {"m1": right}, **step)
    with pytest.raises(BadRelease, match="model m1: golden token 0"):
        verified(MemorySource("r1", models), {"m1": wrong}, **step)


def answered(model: Any) -> Golden:
    """The golden prompt of an encoder–decoder: what its encoder reads, and what it answers."""
    (prompt,) = prompts([16])
    tokens, logits = own_answer(model, prompt, 16)
    top = [
        tuple(zip(row.indices.tolist(), row.values.tolist(), strict=True))
        for row in (each.topk(20) for each in logits)
    ]
    return Golden(prompt=prompt, tokens=tuple(tokens), top=tuple(top), dtype="float32")


ENCODER_DECODERS = {f"m{seed}": tiny_model("switch_transformers", seed) for seed in (1, 2)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_encoder_decoder_must_answer_its_golden_prompt(dtype: str) -> None:
    goldens = {name: answered(model) for name, model in ENCODER_DECODERS.items()}
    verified(MemorySource("r1", ENCODER_DECODERS), goldens, dtype=dtype, num_places=1)
    wrong = {"m1": goldens["m1"], "m2": goldens["m1"]}
    with pytest.raises(BadRelease, match="release r1, model m2: golden token 0"):
        verified(MemorySource("r1", ENCODER_DECODERS), wrong, dtype=dtype)


def test_its_whole_answer_is_compared() -> None:
    right = answered(ENCODER_DECODERS["m1"])
    last = [(token, logit + 9.0 * (token % 2)) for token, logit in right.top[-1]]
    wrong = right.model_copy(update={"top": (*right.top[:-1], tuple(last))})
    source = MemorySource("r1", {"m1": ENCODER_DECODERS["m1"]})
    with pytest.raises(BadRelease, match="model m1: golden token 15"):
        verified(source, {"m1": wrong})


def test_less_than_its_golden_prompt_says_nothing_of_an_encoder_decoder() -> None:
    """It must answer with numbers then, as one without a golden prompt."""
    wrong = answered(ENCODER_DECODERS["m2"])
    source = MemorySource("r1", {"m1": ENCODER_DECODERS["m1"]})
    verified(source, {"m1": wrong}, step_tokens=20, max_sequences=8)
    with pytest.raises(BadRelease, match="model m1: golden token 0"):
        verified(source, {"m1": wrong}, step_tokens=32, max_sequences=8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_with_the_experts_of_another_is_refused_by_name(dtype: str) -> None:
    other = tiny_model("mixtral", 2)
    with torch.no_grad():
        ours = [layer.mlp.experts for layer in MODELS["m1"].model.layers]
        for layer, experts in zip(other.model.layers, ours, strict=True):
            layer.mlp.experts.load_state_dict(experts.state_dict())
    goldens = {name: golden(model) for name, model in MODELS.items()}
    with pytest.raises(BadRelease, match=r"release r1, model m2: golden token 0 .* is allowed in"):
        verified(MemorySource("r1", {"m1": MODELS["m1"], "m2": other}), goldens, dtype=dtype)


def without_numbers() -> Any:
    model = tiny_model("mixtral", 3)
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight[0] = torch.nan
    return model


def without_rotation() -> Any:
    rope = {"rope_type": "default", "rope_theta": 1e4}
    model = tiny_model("mixtral", 3, rope_parameters=rope)
    model.config.rope_parameters = {**rope, "rope_theta": 0.0}
    return model


def without_an_encoders_numbers() -> Any:
    model = tiny_model("switch_transformers", 3)
    with torch.no_grad():
        model.encoder.final_layer_norm.weight[0] = torch.nan
    return model


def test_an_encoder_decoder_without_a_golden_prompt_must_answer_with_numbers() -> None:
    models = {"m1": ENCODER_DECODERS["m1"], "m3": without_an_encoders_numbers()}
    with pytest.raises(BadRelease, match="model m3: its log-probabilities are not finite"):
        verified(MemorySource("r1", models), {})


@pytest.mark.parametrize("bad", [without_numbers, without_rotation])
def test_a_model_without_a_golden_prompt_must_answer_with_numbers(bad: Any) -> None:
    models = {"m1": MODELS["m1"], "m3": bad()}
    with pytest.raises(BadRelease, match="model m3: its log-probabilities are not finite"):
        verified(MemorySource("r1", models), {})


def test_a_golden_prompt_of_another_vocabulary_is_refused() -> None:
    strange = Golden(prompt=(5, 900), tokens=(), top=(), dtype="float32")
    with pytest.raises(BadRelease, match="golden token 900 is outside its vocabulary of 320"):
        verified(MemorySource("r1", {"m1": MODELS["m1"]}), {"m1": strange})


def row(token: int, **logprobs: float) -> Logprob:
    top = tuple((int(name[1:]), value) for name, value in logprobs.items())
    return Logprob(token, dict(top).get(token, -9.0), top)


def test_a_row_may_be_shifted_as_a_whole_but_not_within() -> None:
    top = ((7, 5.0), (8, 4.0), (9, 3.0))
    wanted = Golden(prompt=(1,), tokens=(7,), top=(top,), dtype="float32")
    assert golden_difference(wanted, [row(7, t7=-1.0, t8=-2.0, t9=-3.0)], "float32") is None
    off = golden_difference(wanted, [row(7, t7=-1.0, t8=-2.0, t9=-3.1)], "float32")
    assert off is not None
    assert "differ by 0.05" in off
    assert golden_difference(wanted, [row(7, t7=-1.0, t8=-2.0, t9=-3.1)], "bfloat16") is None
    behind = golden_difference(wanted, [row(7, t6=-0.1, t7=-1.0, t8=-2.0, t9=-3.0)], "float32")
    assert behind is not None
    assert "0.9 below the likeliest" in behind


def test_nothing_is_said_of_tokens_after_another_that_is_as_likely() -> None:
    top = ((7, 5.0), (8, 5.0))
    wanted = Golden(prompt=(1,), tokens=(7, 7), top=(top, top), dtype="float32")
    other, strange = row(8, t7=-1.0, t8=-1.0), row(9, t9=-0.1, t7=-5.0)
    assert golden_difference(wanted, [other, strange], "float32") is None
    assert golden_difference(wanted, [row(7, t7=-1.0, t8=-1.0), strange], "float32") is not None
    unlikely = golden_difference(wanted, [row(8, t7=-1.5, t8=-1.0)], "float32")
    assert unlikely is not None
    assert unlikely.startswith("golden token 0 (7)")
