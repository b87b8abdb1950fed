"""Baselines on real fine-tunes: the divergences that others measured with the same methods."""

import pytest

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.evaluation.baselines.catalogue import make_baselines
from consolidation.evaluation.baselines.subjects import Subjects
from consolidation.evaluation.data import encode, read_files
from consolidation.evaluation.evaluate import evaluate
from tests.support.shared import MODELS, shared

KNOWN = {
    "average": (1.0, 0.321),
    "round-robin": (1.0, 0.520),
    "ties": (1.0, 0.640),
    "emr": (2.25, 0.118),
    "private-3-bit": (0.875, 0.0225),
    "private-4-bit": (1.125, 0.0058),
    "private-8-bit": (2.125, 0.00012),
}
"""Bytes over those of one model's experts, mean KL in nats per token."""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_is_known_of_the_baselines_is_found_again() -> None:
    family = shared("families/tiny-mixtral")
    checkpoints = {name: open_checkpoint(family / name) for name in MODELS}
    tasks = {name: shared(f"data/tasks/{name}_val.jsonl") for name in ("news", "sentiment")}
    texts = {name: shared(f"data/text/{name}_val.txt") for name in ("bard", "code")}
    methods = make_baselines(
        tuple(KNOWN), Subjects(checkpoints, open_checkpoint(family / "base")), ()
    )
    data = encode(read_files(tasks, texts), checkpoints)
    found = {score.method: score for score in evaluate(checkpoints, data, methods)}
    for name, (ratio, kl) in KNOWN.items():
        assert found[name].bytes_of_one_model == pytest.approx(ratio, abs=1e-4), name
        assert found[name].mean_kl == pytest.approx(kl, rel=0.1), name
