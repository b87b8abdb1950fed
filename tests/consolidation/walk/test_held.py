"""What is in memory when a layer is about to be filled: nothing of the layers before it."""

import gc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from consolidation.checkpoints.checkpoint import Checkpoint, open_checkpoint
from consolidation.evaluation.golden_prompts import golden_of
from consolidation.statistics import gathering, probing
from consolidation.statistics.gathering import StatisticsTask, gather
from consolidation.statistics.scoring import score_original, score_release
from consolidation.statistics.stored import ModelStatistics, StatisticsStore
from consolidation.statistics.text import Window
from consolidation.walk import forward
from consolidation.walk.scratch import Scratch
from consolidation.walk.streamed import StreamedModel
from consolidation.walk.weight_sources import CheckpointWeights
from representation.formats import Packed
from tests.support.checkpoints import write_checkpoint

LAYERS = 3
WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "num_local_experts": 8}
LAYER_BYTES = 4 * 8 * 3 * 256 * 512
"""Of a layer's experts in float32. When a layer is read there is room for its own already."""
WINDOWS = tuple(Window((1, *range(3 + i, 18 + i)), 1) for i in range(4))


def score(checkpoint: Checkpoint, _: Path) -> None:
    original, release = (StreamedModel(CheckpointWeights(checkpoint)) for _ in range(2))
    with Scratch() as kept:
        scores = score_original(original, WINDOWS, kept)
        score_release(release, WINDOWS, kept, scores)


def generate(checkpoint: Checkpoint, _: Path) -> None:
    golden_of(StreamedModel(CheckpointWeights(checkpoint)), WINDOWS[0])


def keep_statistics(checkpoint: Checkpoint, directory: Path) -> None:
    store = StatisticsStore({"m": ModelStatistics(str(directory), "m")})
    formats = (Packed(6, 128), Packed(3, 128))
    gather(StatisticsTask("m", checkpoint, WINDOWS, WINDOWS[:1], formats, store))


def live_bytes() -> int:
    """Of all tensors on the CPU, each storage once."""
    tensors = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
    storages = (one.untyped_storage() for one in tensors if one.device.type == "cpu")
    return sum({one.data_ptr(): one.nbytes() for one in storages}.values())


@pytest.mark.parametrize("stage", [score, generate, keep_statistics])
def test_a_layer_is_let_go_before_the_next_is_read(
    stage: Callable[[Checkpoint, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_checkpoint(
        tmp_path / "m", "mixtral", tokenizer=False, num_hidden_layers=LAYERS, **WIDE
    )
    checkpoint = open_checkpoint(path)
    modules: list[ModuleType] = [forward, gathering, probing]
    for module in modules:
        monkeypatch.setattr(module, "HELD_BYTES", 0)
    held, read = list[int](), CheckpointWeights.backbone

    def noted(weights: CheckpointWeights, part: str) -> dict[str, torch.Tensor]:
        if ".layers." in part:
            held.append(live_bytes() - before)
        return read(weights, part)

    monkeypatch.setattr(CheckpointWeights, "backbone", noted)
    gc.collect()
    before = live_bytes()
    stage(checkpoint, tmp_path)
    assert len(held) >= 2 * LAYERS
    assert max(held) < LAYER_BYTES * 1.25, held
