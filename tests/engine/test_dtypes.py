"""Models whose tensors have several dtypes answer as transformers' own do in that mix."""

import copy
import statistics
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from serve_app.engine.request import Request
from tests.engine.running import GREEDY, ON_CPU, answer, engine_of, own_answer, prompts
from tests.support.checkpoints import tiny_model
from tests.support.sources import MemorySource

ROUTER = "mlp.gate.weight"


def mixed(architecture: str, seed: int, *, wide: bool) -> Any:
    """A model in bfloat16; where `wide`, its routers in float32, with values that bfloat16 lacks.

    Routers are larger than usual, so that rounding them changes which experts are taken.
    """
    model = tiny_model(architecture, seed)
    routers = {n: 20 * t for n, t in model.state_dict().items() if n.endswith(ROUTER)}
    model = model.to(torch.bfloat16)
    for name, tensor in routers.items():
        router = model.get_submodule(name.removesuffix(".weight"))
        router.weight = torch.nn.Parameter(tensor if wide else tensor.bfloat16())
    return model


def errors(engine: Any, models: Mapping[str, Any]) -> tuple[float, float]:
    """The median error to float32 of log-probabilities: the engine's, and the models' own."""
    exact = {name: copy.deepcopy(model).float() for name, model in models.items()}
    requests = [
        Request(f"{name}-{seed}", "r1", name, prompt, 0, GREEDY, prompt_logprobs=0)
        for seed in range(3)
        for name, prompt in zip(models, prompts([60] * len(models), seed=seed), strict=True)
    ]
    answers = answer(engine, requests)
    found, own = [], []
    for request in requests:
        logprobs = answers[request.id].prompt_logprobs
        assert logprobs is not None
        with torch.no_grad():
            ids = torch.tensor([request.prompt])
            mine = models[request.model](ids).logits[0].float().log_softmax(-1)
            truth = exact[request.model](ids).logits[0].log_softmax(-1)
        for position, logprob in enumerate(logprobs[1:]):
            assert logprob is not None
            wanted = truth[position, logprob.token].item()
            found.append(abs(logprob.logprob - wanted))
            own.append(abs(mine[position, logprob.token].item() - wanted))
    return statistics.median(found), statistics.median(own)


@pytest.mark.parametrize("architecture", ["deepseek_v3", "glm4_moe"])
def test_float32_routers_of_one_model_are_kept_beside_bfloat16_routers_of_another(
    architecture: str,
) -> None:
    models = {
        "wide": mixed(architecture, 1, wide=True),
        "plain": mixed(architecture, 2, wide=False),
    }
    engine = engine_of(MemorySource("r1", models, dtype="bfloat16"), config=ON_CPU)
    stacks = engine.packed.stacks
    routers = [name for name in stacks.names() if name.endswith(ROUTER)]
    assert routers
    assert {stacks[name].dtype for name in routers} == {torch.float32}
    assert stacks["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert stacks.num_bytes == engine.memory.backbones_bytes
    error, own = errors(engine, models)
    assert error < 1.5 * own
    for name in routers:
        wanted = {model: models[model].get_parameter(name).float() for model in models}
        assert any(torch.equal(row, wanted["wide"]) for row in stacks[name])
        assert any(torch.equal(row, wanted["plain"]) for row in stacks[name])
    engine.close()


def test_routers_that_a_models_code_cannot_have_in_float32_are_rounded() -> None:
    """As `from_pretrained` rounds them: the code multiplies bfloat16 by the router's weights."""
    model = mixed("mixtral", 1, wide=True)
    with pytest.raises(RuntimeError, match="dtype"):
        own_answer(model, (1, 2, 3), 1)
    engine = engine_of(MemorySource("r1", {"m": model}, dtype="bfloat16"), config=ON_CPU)
    assert engine.packed.stacks[f"model.layers.0.{ROUTER}"].dtype == torch.bfloat16
    error, own = errors(engine, {"m": copy.deepcopy(model).to(torch.bfloat16)})
    assert error < 1.5 * own
    engine.close()
