"""Bytes of a model's place, block, row of state and step. `memory.py` decides how many."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from representation.architecture.anatomy import Anatomy
from representation.step_reads import DecodeStep
from serve_app.engine.attention.forms import attention_needs
from serve_app.engine.device.matmul import SCRATCH_BYTES
from serve_app.engine.experts.runs import WORKSPACE_BYTES
from serve_app.engine.experts.shelves import LayerShape
from serve_app.engine.run.kept import CaptureNeeds
from serve_app.engine.stacks.stack_shapes import unique_tensors

BLOCK_SIZE = 16
"""Tokens in a KV block."""
ALIGNMENT = 64
"""Alignment of tensors in a pinned buffer, in bytes."""
CUBLAS_BYTES = 64 << 20
"""What torch gives cuBLAS on recent devices: 32 MiB for the stream of steps and of captures."""
STATE_COPIES = 4
"""Copies of a layer's states that a step makes where no compiled code works on them in place."""
SCAN_COPIES = 4
"""As many of them a mixer makes for each token of a prompt that it must have at once: transformers'
scan holds what each token does to the state (3.5 measured)."""
KERNELS_BYTES = 16 << 20
"""Tables of the kernels for experts, and sums of programs that share a tile."""


@dataclass(frozen=True, slots=True)
class UnitBytes:
    """Bytes of one of each thing. input_block: of what cross-attention stores; 0 if nothing is.

    step: its workspace; step_per_block, step_per_state: its growth
    with each block and row of state.

    attention: what its kernels keep.   captured: of captures, if there are any.
    """

    place: int
    copy: int
    block: int
    input_block: int
    state_row: int
    step: int
    step_per_block: float
    step_per_state: int
    attention: int
    captured: CaptureNeeds


def pinned_bytes(size: int) -> int:
    """Bytes that a tensor of this size takes in a pinned buffer."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def copy_bytes(sizes: Iterable[int], device: torch.device) -> int:
    """Bytes of a host copy for an engine on that device. sizes: of its tensors, in bytes."""
    return sum(pinned_bytes(size) if device.type == "cuda" else size for size in sizes)


def cross_width(anatomy: Anatomy) -> int:
    """Numbers that cross-attention stores of one token of an input, in all layers."""
    kinds, shapes = anatomy.kinds, anatomy.attentions
    return sum(shape.width for path, shape in shapes.items() if kinds[path].sees == "encoder")


def unit_bytes(
    anatomy: Anatomy,
    shapes: Sequence[LayerShape],
    dtype: torch.dtype,
    step_tokens: int,
    device: torch.device,
) -> UnitBytes:
    """Whatever formats the release has: the next one may have others. step_tokens: of a step."""
    on_cpu = device.type == "cpu"
    sizes = [shape.numel() * kind.itemsize for shape, kind in unique_tensors(anatomy).values()]
    stored = [shape for path, shape in anatomy.attentions.items() if anatomy.kinds[path].is_stored]
    width = sum(shape.width for shape in stored)
    block = width * BLOCK_SIZE * dtype.itemsize
    input_block = cross_width(anatomy) * BLOCK_SIZE * dtype.itemsize
    config = anatomy.model.config.get_text_config()
    hidden = config.hidden_size
    experts = [sum(map(math.prod, shape.expert.parameters.values())) for shape in shapes]
    per_expert = max(experts) // hidden  # about three times the intermediate size
    top_k = DecodeStep.of(config.to_dict()).experts_per_token
    # A second shelf's input and output; the CPU may compute in float32.
    second = (per_expert + hidden) * (dtype.itemsize + (4 if on_cpu else 0))
    pair = (per_expert + 3 * hidden) * dtype.itemsize + second
    token = 8 * hidden * dtype.itemsize + top_k * pair + 2 * 4 * config.vocab_size
    token += 2 * cross_width(anatomy) * dtype.itemsize  # of all layers at once, and a part of it
    libraries = SCRATCH_BYTES + WORKSPACE_BYTES if on_cpu else CUBLAS_BYTES + KERNELS_BYTES
    gathered = 2 * block / len(stored)
    kinds = len({(s, anatomy.kinds[path]) for path, s in anatomy.attentions.items()})
    kept = attention_needs(device)
    logits = config.vocab_size * dtype.itemsize
    states = [mixer.state_bytes for mixer in anatomy.recurrent.values()]
    # Of one layer at a time: what is read, two products with it, and what is written. Compiled
    # code on the CPU works on states where they lie.
    copied = 0 if on_cpu else STATE_COPIES * max(states, default=0)
    scanned = SCAN_COPIES * max(states, default=0) if anatomy.prompt_at_once else 0
    return UnitBytes(
        sum(sizes),
        copy_bytes(sizes, device),
        block - input_block,
        input_block,
        sum(states),
        step=step_tokens * (token + scanned) + libraries,
        step_per_state=copied,
        step_per_block=gathered,
        attention=kept.once + kinds * kept.kind,
        captured=CaptureNeeds(token + copied, logits, gathered, once=kinds * kept.captured),
    )
