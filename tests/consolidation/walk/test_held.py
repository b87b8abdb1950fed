"""What is in memory when experts are read: a few of them, however many a layer has."""

import gc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from consolidation.checkpoints.checkpoint import Checkpoint, open_checkpoint
from consolidation.evaluation.golden_prompts import golden_of
from consolidation.statistics import gathering, probing, scoring
from consolidation.statistics.gathering import StatisticsTask, gather
from consolidation.statistics.scoring import score
from consolidation.statistics.stored import ModelStatistics, StatisticsStore
from consolidation.statistics.windows import Window
from consolidation.walk import forward, streamed
from consolidation.walk.streamed import StreamedModel
from consolidation.walk.weight_sources import CheckpointWeights
from representation import freed_memory
from representation.formats import Packed
from tests.support.checkpoints import write_checkpoint

LAYERS = 3
WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "num_local_experts": 16}
EXPERT_BYTES = 4 * 3 * 256 * 512
"""Of an expert in float32."""
WINDOWS = tuple(Window((1, *range(3 + i, 18 + i)), 1) for i in range(4))


def compare(checkpoint: Checkpoint, _: Path) -> None:
    original, release = (StreamedModel(CheckpointWeights(checkpoint)) for _ in range(2))
    score(original, WINDOWS, release)


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


@pytest.mark.parametrize("stage", [compare, generate, keep_statistics])
def test_few_experts_are_in_memory_at_a_time(
    stage: Callable[[Checkpoint, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_checkpoint(
        tmp_path / "m", "mixtral", tokenizer=False, num_hidden_layers=LAYERS, **WIDE
    )
    checkpoint = open_checkpoint(path)
    modules: list[ModuleType] = [forward, gathering, probing, scoring]
    for module in modules:
        monkeypatch.setattr(module, "HELD_BYTES", 0)
    held, read = list[int](), CheckpointWeights.expert

    def noted(weights: CheckpointWeights, layer: int, index: int) -> dict[str, torch.Tensor]:
        held.append(live_bytes() - before)
        return read(weights, layer, index)

    monkeypatch.setattr(CheckpointWeights, "expert", noted)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a second one that waits for a core holds what it was at
    gc.collect()
    before = live_bytes()
    stage(checkpoint, tmp_path)
    torch.set_num_threads(threads)
    assert len(held) >= 2 * LAYERS
    assert max(held) < 10 * EXPERT_BYTES, held


def test_what_experts_leave_is_given_back_within_a_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_checkpoint(tmp_path / "m", "mixtral", tokenizer=False, num_hidden_layers=1, **WIDE)
    monkeypatch.setattr(streamed, "READ_BYTES", 4 * EXPERT_BYTES)
    given = list[int]()
    monkeypatch.setattr(freed_memory, "give_back", lambda: given.append(1))
    compare(open_checkpoint(path), tmp_path)
    assert len(given) >= 2 * WIDE["num_local_experts"] // 4 - 2
