"""Measures the peak memory of reading, planning and building. Run as a script, in its own process.

    python -m tests.consolidation.memory REGISTRY BUDGET CHECKPOINT_DIR …

prints one JSON object, sizes in bytes: the process before anything of size is read, the most it
came to before validation began, the checkpoints' tensors, and one layer's experts of all models.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from consolidation.checkpoint import open_checkpoint
from consolidation.executor import LocalExecutor
from consolidation.pipeline import Recipe, consolidate
from consolidation.validate import validate_model


class Built(Exception):
    """All is built; validation, which holds a whole model, would begin."""


class UntilBuilt:
    """Runs tasks in this process until it comes to validation."""

    def map(
        self, function: Callable[[Any], Any], tasks: Sequence[Any], *, in_flight: int | None = None
    ) -> Iterator[tuple[int, Any]]:
        if function is validate_model:
            raise Built
        yield from LocalExecutor().map(function, tasks)


def peak() -> int:
    """The most this process has held; unlike `ru_maxrss`, not what its parent once held."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def measure(registry: str, budget: float, directories: list[Path]) -> dict[str, int]:
    opened = [open_checkpoint(directory) for directory in directories]
    layers = zip(*[checkpoint.experts for checkpoint in opened], strict=True)
    sizes = {
        "tensors": sum(c.expert_bytes + c.backbone_bytes for c in opened),
        "layer": max(sum(source.num_bytes for source in layer) for layer in layers),
        "before": peak(),
    }
    models = {directory.name: directory for directory in directories}
    try:
        recipe = Recipe("fam", registry, models, expert_budget=budget)
        consolidate(recipe, executor=UntilBuilt())
    except Built:
        pass
    return {**sizes, "peak": peak()}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], float(sys.argv[2]), [Path(a) for a in sys.argv[3:]])))
