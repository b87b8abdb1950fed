"""A reload under load: what is counted as lost, wrong and slow, and one small endpoint for real."""

from pathlib import Path

import pytest
import torch

from consolidation.release import Registry
from serve_app.bench.arms.arm import Ground
from serve_app.bench.arms.weight_specs import RandomSpec
from serve_app.bench.http.publishing import publish
from serve_app.bench.requests.workload import Asked
from serve_app.bench.tenants.reload_figures import Reload, own_bytes
from serve_app.bench.tenants.reload_streams import Heard, heard
from serve_app.bench.tenants.reloading import reloading
from serve_app.bench.weights.one_changed import OneChanged
from serve_app.bench.weights.random_release import RandomRelease
from serve_app.engine.config import EngineConfig
from tests.bench.tiny import tiny_config

ALONE = [Heard(0, "a b", (), "old"), Heard(0, "a c", (), "new")]


def test_an_answer_is_wrong_if_the_release_that_it_names_answers_otherwise() -> None:
    answers = [
        Heard(0, "a b", (), "old"),
        Heard(0, "a b", (), "new"),
        Heard(0, "a c", (), "new"),
        Heard(0, "a c", (), None),
        Heard(0, "a", (), "new", "cut"),
    ]
    found = Reload(answers, ALONE, 0.0, 1.0, 2.0)
    assert (found.num_wrong, found.num_lost) == (2, 1)


def test_gaps_are_of_one_stream_and_count_when_they_end() -> None:
    answers = [
        Heard(0, "a b", (0.1, 0.2, 0.9, 1.5), "old"),
        Heard(1, "a b", (0.5, 0.6, 1.9, 2.5), "old"),
    ]
    found = Reload(answers, ALONE, 0.15, 1.0, 2.0)
    assert found.before == pytest.approx([0.1, 0.7, 0.1])
    assert found.during == pytest.approx([0.6, 1.3])
    assert found.median_gap_before == pytest.approx(0.1)
    assert found.worst_gap == pytest.approx(1.3)


def test_a_stream_without_its_end_or_with_an_error_event_is_lost() -> None:
    piece = b'data: {"system_fingerprint": "r", "choices": [{"text": " a"}]}'
    usage = b'data: {"system_fingerprint": "r", "choices": [], "usage": {}}'
    lines = [(1.0, piece), (1.1, b""), (2.0, b": waiting"), (3.0, piece), (3.1, usage)]
    done = (3.2, b"data: [DONE]")
    assert heard(4, [*lines, done], None) == Heard(4, " a a", (1.0, 3.0), "r")
    assert heard(4, lines, None).error == "the stream ended before the answer did"
    broken = heard(4, [*lines, (3.1, b'data: {"error": {"code": "x"}}'), done], None)
    assert broken.error is not None
    assert "x" in broken.error


def test_a_release_with_one_model_changed_has_that_models_files_alone_of_its_own(
    tmp_path: Path,
) -> None:
    first, other = (
        RandomRelease(tiny_config(), 3, merged=False, seed=seed, dtype="float32") for seed in (0, 1)
    )
    changed = OneChanged(first, other, "m1")
    registry = Registry(str(tmp_path), "random")
    before, after = (registry.read_manifest(publish(one, registry)) for one in (first, changed))
    assert before.models["m0"] == after.models["m0"]
    assert before.models["m1"].backbone != after.models["m1"].backbone
    for old, new in zip(before.layers, after.layers, strict=True):
        differ = [a != b for a, b in zip(old.slots, new.slots, strict=True)]
        assert differ == [False] * 4 + [True] * 4 + [False] * 4
    slots = [part.bytes for layer in after.layers for part in layer.slots[4:8]]
    backbones = [blob.bytes for blob in after.models["m1"].backbone]
    assert own_bytes(after, before) == sum(slots) + sum(backbones)
    assert torch.equal(changed.read_slot(0, 3)["down_proj"], first.read_slot(0, 3)["down_proj"])


@pytest.mark.ray
@pytest.mark.slow
def test_a_reload_of_an_endpoint_loses_nothing_and_is_measured() -> None:
    names = ("m0", "m1")
    engine = EngineConfig(
        device="cpu", dtype="float32", kv_tokens=4096, max_sequences=8, num_places=3
    )
    spec = RandomSpec(tiny_config(vocab_size=8192), 2, "bfloat16", merged=False)
    asked = [Asked(name, 128, 8192) for name in names]
    found = reloading(Ground(spec, names, engine), asked, before_s=1.0)
    assert found["reload_lost_or_wrong"].value == 0
    assert found["reload_gap_over_median"].value > 0.0
    facts = found["reload_read_over_share"].facts
    assert facts["bytes_read"] >= facts["own_bytes"] > 0
