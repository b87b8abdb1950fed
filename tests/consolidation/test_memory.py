import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from consolidation.compare import BLOCK_BYTES
from tests.consolidation.families import tune
from tests.support.checkpoints import write_checkpoint

ROOT = Path(__file__).parents[2]
SHAPE: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_local_experts": 8,
    "num_attention_heads": 8,
}


@pytest.mark.slow
def test_planning_and_building_hold_no_more_than_a_layer_of_all_models(tmp_path: Path) -> None:
    base = write_checkpoint(
        tmp_path / "base", "mixtral", dtype=torch.bfloat16, tokenizer=False, **SHAPE
    )
    models = [tune(base, tmp_path / f"m{i}", i, experts=0.001) for i in range(3)]
    command = [sys.executable, "-m", "tests.consolidation.memory", str(tmp_path / "r"), "1.5"]
    done = subprocess.run(
        [*command, *map(str, models)], cwd=ROOT, capture_output=True, check=True, text=True
    )
    sizes = json.loads(done.stdout)
    print(sizes)
    # The constant: a block of the comparison and its products, and what the allocator keeps.
    allowed = sizes["layer"] + 4 * BLOCK_BYTES + (48 << 20)
    assert sizes["tensors"] > 3 * allowed
    assert sizes["peak"] - sizes["before"] < allowed
