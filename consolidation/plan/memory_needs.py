"""What a run will hold in memory at most, stage by stage, from headers alone. Reads no tensor."""

from dataclasses import dataclass

import torch

from consolidation.arithmetic.on_device import CPU
from consolidation.checkpoints.family import Family
from consolidation.errors import Refused
from consolidation.plan.device_bytes import (
    WALK_BYTES,
    bytes_on,
    layer_bytes,
    walk_bytes,
    walk_on,
)
from consolidation.plan.task_bytes import (
    BESIDE,
    LAYERS,
    build_bytes,
    compare_bytes,
    stage_bytes,
)

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class StageMemory:
    """The most that a stage holds by itself: pages of checkpoint files do not count.

    num_bytes: of the host.   device_bytes: of the device, where the CPU does not compute: of one
    task at least.   words: what it is made of.
    """

    stage: str
    num_bytes: int
    device_bytes: int
    words: str


def memory_needs(
    family: Family, *, is_lossy: bool, device: torch.device = CPU
) -> tuple[StageMemory, ...]:
    """The stages that hold most, in their order. is_lossy: whether anything may be approximated."""
    if not family.checkpoints:
        return ()
    name, model = max(family.checkpoints.items(), key=lambda item: layer_bytes(item[1]))
    walk = walk_bytes(model), walk_on(device, model)
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
        max(of(shape, num_models) for shape in shapes) for of in (compare_bytes, build_bytes)
    )
    needs = (
        StageMemory("calibrate", *walk, of_walk),
        StageMemory("compare", max(most, compare), bytes_on(device, compare), of_tasks),
        StageMemory("build", max(most, build), bytes_on(device, build), of_tasks),
        StageMemory("validate", *walk, of_walk),
    )
    return needs if is_lossy else needs[2:]


@dataclass(frozen=True, slots=True)
class Free:
    """Memory that a run may take, in bytes. None: it cannot be told.   device: of that computes."""

    host: int | None = None
    device: int | None = None


def check_memory(family: Family, free: Free, *, is_lossy: bool, device: torch.device) -> None:
    """Raise `Refused` for the first stage that needs more memory than is free."""
    for need in memory_needs(family, is_lossy=is_lossy, device=device):
        for num_bytes, left, where in (
            (need.num_bytes, free.host, "memory"),
            (need.device_bytes, free.device, f"memory on the device ({device})"),
        ):
            if left is not None and num_bytes > left:
                raise Refused(
                    f"{need.stage} needs {num_bytes / GIB:.2f} GiB of {where}, and "
                    f"{left / GIB:.2f} GiB are free: {need.words}"
                )
