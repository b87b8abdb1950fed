"""The most memory that a task of comparing or building takes beside pages of files. Pure numbers.

Tasks read experts one at a time, so this depends on the size of an expert and on how many may share
a slot, not on how many a layer has.
"""

from consolidation.arithmetic.metric import block_size
from consolidation.arithmetic.weights import WIDE_BYTES
from consolidation.statistics.moments import SAMPLES
from consolidation.statistics.stored import KEPT_BYTES
from representation.formats import ExpertShape

PREPARED = 3
"""What a metric and what is prepared of it take, over its moments and samples."""
AT_ONCE = 6
"""Experts in float32 beside those of a group: read from two models, the base's, a mean, what two
differ by, and what is computed of that."""
LAYERS, BESIDE = 2.5, 1 << 30
"""What all tasks of a stage take together: of a layer's experts of all models, and beside them."""


def stage_bytes(layer_bytes: int) -> int:
    """The most that comparing or building take, all tasks together.

    layer_bytes: of the largest layer's experts, of all models, as they are stored.
    """
    return int(LAYERS * layer_bytes) + BESIDE


def tasks_at_once(task_bytes: int, layer_bytes: int) -> int:
    """How many tasks may run at once; one in any case."""
    return max(1, stage_bytes(layer_bytes) // task_bytes)


def compare_bytes(shape: ExpertShape, num_models: int) -> int:
    """Of comparing a layer whose experts have this shape, one of each model in a group."""
    experts = (num_models + AT_ONCE) * WIDE_BYTES * shape.num_weights
    one = statistics_bytes(shape)
    return experts + max(KEPT_BYTES, one) + PREPARED * num_models * one


def build_bytes(shape: ExpertShape, num_models: int) -> int:
    """Of building a slot for an expert of each model, with residuals."""
    experts = (num_models + AT_ONCE) * WIDE_BYTES * shape.num_weights
    one = statistics_bytes(shape)
    return experts + max(KEPT_BYTES, one) + num_models * one


def statistics_bytes(shape: ExpertShape) -> int:
    """Of the metrics of one expert's matrices."""
    found = 0
    for rows, columns in map(shape.matrix, shape.matrices):
        size = block_size(columns)
        moments = -(-columns // size) * size * size
        found += rows + moments + SAMPLES * (rows + columns)
    return WIDE_BYTES * found
