"""A light edit beside models that were tuned hard keeps its effect, little as it is."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.consolidation.running import Paths, manifest_of, run
from tests.support.shared import shared

pytestmark = pytest.mark.slow

SIZE = 0.12
"""Of the edit, in every expert's weights over theirs: a divergence of about 0.01 from the base."""
STRONG = {
    "bard": "text/bard_train.txt",
    "news": "tasks/news_train.jsonl",
    "sentiment": "tasks/sentiment_train.jsonl",
}


def lightly_edited(base: Path, target: Path) -> Path:
    """A copy of a checkpoint with a little noise in all experts, and nothing else changed."""
    target.mkdir()
    for path in base.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    tensors = load_file(target / "model.safetensors")
    generator = torch.Generator().manual_seed(7)
    for name in sorted(tensors):
        if ".experts." in name:
            own = tensors[name].float()
            noise = torch.randn(own.shape, generator=generator) * own.std()
            tensors[name] = (own + SIZE * noise).to(tensors[name].dtype)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_a_light_edit_beside_three_strong_ones_keeps_its_effect(tmp_path: Path) -> None:
    base = shared("families/tiny-mixtral/base")
    models: Paths = {name: shared(f"families/tiny-mixtral/{name}") for name in STRONG}
    models["light"] = lightly_edited(base, tmp_path / "light")
    texts = {**STRONG, "light": "text/code_train.txt"}
    calibration = tuple((name, shared(f"data/{file}")) for name, file in texts.items())
    outcome = run(tmp_path / "r", models, 1.0, base=base, calibration=calibration)
    found = manifest_of(outcome).quality
    light = found["light"]
    assert light.kl_base is not None
    assert light.kl_base == pytest.approx(0.01, rel=0.3)
    assert min(one.retained or 0.0 for one in found.values()) >= 0.95
