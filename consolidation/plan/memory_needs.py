"""What a run will hold in memory at most, stage by stage, from headers alone. Reads no tensor."""

import re
from dataclasses import dataclass

from consolidation.checkpoints.checkpoint import Checkpoint
from consolidation.checkpoints.family import Family
from consolidation.errors import Refused
from consolidation.plan.task_bytes import (
    BESIDE,
    LAYERS,
    build_bytes,
    compare_bytes,
    stage_bytes,
)

GIB = 1 << 30
WALK_BYTES = 3 * GIB // 2
"""What running a model takes beside its layers: activations, logits, sums, embeddings."""
LAYERS_AT_ONCE = 2
"""One decoder layer of a model that runs is held, in float32: as large as two in 16 bits."""


@dataclass(frozen=True, slots=True)
class StageMemory:
    """The most that a stage holds by itself: pages of checkpoint files do not count.

    words: what it is made of.
    """

    stage: str
    num_bytes: int
    words: str


def memory_needs(family: Family, *, is_lossy: bool) -> tuple[StageMemory, ...]:
    """The stages that hold most, in their order. is_lossy: whether anything may be approximated."""
    if not family.checkpoints:
        return ()
    name, model = max(family.checkpoints.items(), key=lambda item: _layer_bytes(item[1]))
    walk = LAYERS_AT_ONCE * _layer_bytes(model) + WALK_BYTES
    of_walk = f"two layers of {name!r}, the largest model, and {WALK_BYTES / GIB:.1f} GiB"
    layers = range(len(family.modules))
    most = stage_bytes(max(map(family.layer_bytes, layers)))
    shapes = list(map(family.shape, layers))
    num_models = len(family.models)
    of_tasks = (
        f"{LAYERS} × a layer's experts of all models, and {BESIDE / GIB:.1f} GiB; "
        "what one task takes, if that is more"
    )
    compare, build = (
        max(most, *(of(shape, num_models) for shape in shapes))
        for of in (compare_bytes, build_bytes)
    )
    needs = (
        StageMemory("calibrate", walk, of_walk),
        StageMemory("compare", compare, of_tasks),
        StageMemory("build", build, of_tasks),
        StageMemory("validate", walk, of_walk),
    )
    return needs if is_lossy else needs[2:]


def _layer_bytes(model: Checkpoint) -> int:
    """Bytes of a model's largest decoder layer: its experts, and its part of the backbone."""
    backbone = {part.name: part.num_bytes for part in model.backbone}
    found = []
    for source in model.experts:
        layer = re.match(r".*?\.\d+(?=\.)", source.module)
        rest = backbone.get(layer.group(), 0) if layer else 0
        found.append(source.num_bytes + rest)
    return max(found)


def check_memory(family: Family, free_bytes: int, *, is_lossy: bool) -> None:
    """Raise `Refused` for the first stage that needs more memory than is free."""
    for need in memory_needs(family, is_lossy=is_lossy):
        if need.num_bytes > free_bytes:
            raise Refused(
                f"{need.stage} needs {need.num_bytes / GIB:.2f} GiB of memory, and "
                f"{free_bytes / GIB:.2f} GiB are free: {need.words}"
            )
