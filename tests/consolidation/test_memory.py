from pathlib import Path
from typing import Any

import pytest
import torch

from consolidation.footprint import measure
from consolidation.tree import BLOCK_BYTES
from tests.consolidation.families import tune
from tests.support.checkpoints import write_checkpoint

SHAPE: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_local_experts": 8,
    "num_attention_heads": 8,
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_planning_and_building_hold_no_more_than_a_layer_of_all_models(tmp_path: Path) -> None:
    base = write_checkpoint(
        tmp_path / "base", "mixtral", dtype=torch.bfloat16, tokenizer=False, **SHAPE
    )
    models = [tune(base, tmp_path / f"m{i}", i, experts=0.001) for i in range(3)]
    directories = {path.name: path for path in models}
    peaks = measure(directories, tmp_path / "registry", budget=1.5)
    held = {peak.stage: peak.anonymous for peak in peaks}
    files = [file for path in models for file in path.glob("*.safetensors")]
    expert = 3 * SHAPE["hidden_size"] * SHAPE["intermediate_size"] * 2
    layer = expert * SHAPE["num_local_experts"] * len(models)
    # The constant: blocks of the comparison and their products, what the allocator keeps, and
    # the libraries that the first task of a kind imports.
    allowed = layer + 4 * BLOCK_BYTES + (96 << 20)
    assert sum(file.stat().st_size for file in files) > 2 * allowed
    assert {"scan", "compare", "build"} <= held.keys()
    for stage in ("open", "scan", "compare", "build", "backbone"):
        assert held.get(stage, 0) < allowed, f"{stage}: {held}"
