"""What tasks take of a device that computes for them: nothing, where that is the CPU. Pure numbers.

A task on a device takes less of the host, but is counted there as if it did not.
"""

import re

import torch

from consolidation.checkpoints.checkpoint import Checkpoint
from consolidation.statistics.probing import ROUNDED_BYTES

CONTEXT_BYTES = 1 << 29
"""What a process takes of a device before it computes."""
WALK_BYTES = 3 << 29
"""What running a model takes beside its layers: activations, logits, sums, embeddings."""
LAYERS_AT_ONCE = 2
"""One decoder layer of a model that runs is held, in float32: as large as two in 16 bits."""
ROUNDING = 6
"""What rounding many matrices together takes, over their weights."""


def layer_bytes(model: Checkpoint) -> int:
    """Bytes of a model's largest decoder layer: its experts, and its part of the backbone."""
    backbone = {part.name: part.num_bytes for part in model.backbone}
    found = []
    for source in model.experts:
        layer = re.match(r".*?\.\d+(?=\.)", source.module)
        rest = backbone.get(layer.group(), 0) if layer else 0
        found.append(source.num_bytes + rest)
    return max(found)


def walk_bytes(model: Checkpoint) -> int:
    """What running a model takes, a layer at a time, where it computes."""
    return LAYERS_AT_ONCE * layer_bytes(model) + WALK_BYTES


def walk_on(device: torch.device, model: Checkpoint) -> int:
    """The same of the device."""
    return bytes_on(device, walk_bytes(model) + ROUNDING * ROUNDED_BYTES)


def bytes_on(device: torch.device, num_bytes: int) -> int:
    """What a task takes of the device whose tensors take so much."""
    return 0 if device.type == "cpu" else num_bytes + CONTEXT_BYTES
