"""Which experts of a layer have one origin. Compares no ways to store them."""

from functools import lru_cache

from consolidation.arithmetic.on_device import same_sums
from consolidation.compare.kin import find_kin
from consolidation.compare.layer import CACHED, CompareTask


def find_origins(task: CompareTask) -> list[list[int]]:
    """The experts of each origin, by position in the task."""
    if not task.experts:
        return []
    read = lru_cache(CACHED)(lambda position: task.experts[position].read(task.device))
    with same_sums(task.device):
        found = find_kin(
            [expert.index for expert in task.experts],
            [expert.locked for expert in task.experts],
            read,
            task.experts[0].source.layout,
        )
    return [list(kin.members) for kin in found]
