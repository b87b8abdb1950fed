"""A release as if nothing were merged says what it says, in the memory of whole models."""

import pytest
import torch

from serve_app.bench.arms.transformers import stock_model
from serve_app.bench.arms.unmerged import Unmerged
from serve_app.engine.memory import plan_memory
from tests.bench.compare.test_compare import GROUND
from tests.engine.running import ON_CPU, answer, assert_golden, engine_of, greedy_requests
from tests.support.checkpoints import tiny_model
from tests.support.mixes import MixedSource, in_turn

MIX = "every expert in its own way"
MODELS = {f"m{seed}": tiny_model("mixtral", seed) for seed in (1, 2, 3)}


@pytest.fixture(scope="module")
def source() -> MixedSource:
    return MixedSource("r1", MODELS, in_turn(MIX))


def test_models_answer_as_the_sums_of_their_parts(source: MixedSource) -> None:
    names = ["m3", "m1"]
    unmerged = Unmerged(source, names)
    engine = engine_of(unmerged, kv_tokens=128)
    requests = greedy_requests(names, [5, 20], max_tokens=6, release=unmerged.id)
    assert_golden(source.references(MODELS), requests, answer(engine, requests))
    engine.close()


def test_each_model_has_whole_experts_of_its_own(source: MixedSource) -> None:
    one, two = (plan_memory(Unmerged(source, names), ON_CPU) for names in (["m1"], ["m1", "m2"]))
    assert two.num_slots == tuple(2 * number for number in one.num_slots)
    digests = [slot.digest for slot in Unmerged(source, list(MODELS)).layers[0].slots]
    assert len(set(digests)) == len(digests)
    with pytest.raises(LookupError, match="layer 0 has no residual 2"):
        Unmerged(source, ["m1"]).read_residual(0, 2)


def test_transformers_gets_the_same_weights(source: MixedSource) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    model = stock_model(Unmerged(source, ["m2"]), "m2", GROUND)
    reference = source.references(MODELS)["m2"].eval()
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, reference(ids).logits, atol=1e-5)
