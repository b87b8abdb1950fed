"""Wrappers go from the checkpoints that transformers saves to answers, as text models.

A hybrid one, such as Qwen3.5-MoE, needs no more here than a line in `ARCHITECTURES` and in `TOWERS`
of `tests/support/checkpoints.py`.
"""

from pathlib import Path
from typing import Any

import pytest

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.release import Registry, ReleaseReader
from serve_app.engine.request import Request
from serve_app.errors import Unsupported
from tests.consolidation.families import write_family
from tests.consolidation.running import manifest_of, pick, run
from tests.engine.running import GREEDY, answer, assert_golden, engine_of, greedy_requests
from tests.support.checkpoints import TOWERS, loaded, tiny_model
from tests.support.sources import MemorySource


@pytest.mark.parametrize("architecture", TOWERS)
def test_a_release_of_wrappers_answers_as_their_own_classes_do(
    architecture: str, tmp_path: Path
) -> None:
    paths = pick(write_family(tmp_path / "f", architecture), "one", "two")
    outcome = run(tmp_path / "r", paths, channel="stable")
    manifest = manifest_of(outcome)
    served = manifest.architecture
    assert served.endswith("ForConditionalGeneration")
    for name, model in manifest.models.items():
        assert model.source.not_served == open_checkpoint(paths[name]).not_served != {}
        tensors = [tensor for blob in model.backbone for tensor in blob.tensors]
        assert all("language_model" in one or one.startswith("lm_head") for one in tensors)

    models: dict[str, Any] = {name: loaded(path).eval() for name, path in paths.items()}
    engine = engine_of(
        ReleaseReader(Registry(str(tmp_path / "r"), "fam"), manifest.id), kv_tokens=96
    )
    requests = greedy_requests(models, [5, 17, 30], max_tokens=12, release=manifest.id)
    media = (5, models["one"].config.image_token_id, 6, 311, 7)
    requests.append(Request("media", manifest.id, "one", media, 8, GREEDY))
    answers = answer(engine, requests)
    assert engine.stats().num_preemptions > 0
    assert_golden(models, requests, answers)
    engine.close()


def test_embeddings_by_layer_are_refused_by_name() -> None:
    fields = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 320}
    source = MemorySource("r1", {"m": tiny_model("gemma4", **fields)})
    with pytest.raises(Unsupported, match="model mixes tokens and uses 'weights of a part' itself"):
        engine_of(source)
