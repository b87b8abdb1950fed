"""Which experts of a layer have one origin, and parts of a layer that hold those whole.

Compares no ways to store them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from consolidation.arithmetic.on_device import same_sums
from consolidation.compare.kin import Kin, find_kin
from consolidation.compare.layer import CACHED, CompareTask


def find_origins(task: CompareTask) -> list[list[Any]]:
    """The layer's kin, by position in the task, as JSON values; none where there are no experts."""
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
    return [kin.to_json() for kin in found]


def parts_of(
    task: CompareTask, found: Sequence[Kin], most_bytes: int
) -> Iterator[tuple[CompareTask, tuple[int, ...]]]:
    """What to compare of a layer, in parts of about equal size; with positions in the layer.

    Each part has its experts numbered anew. Where few formats are to do for the whole layer, it is
    one part.   found: the layer's kin.   most_bytes: of the experts of a part, as read.
    """
    of_one = [e.source.num_bytes / e.source.num_experts for e in task.experts]
    num_parts = math.ceil(sum(of_one) / most_bytes) if task.max_formats is None else 1
    room = sum(of_one) / max(1, num_parts)
    part: list[Kin] = []
    held = 0.0
    for number, kin in enumerate(found, start=1):
        part.append(kin)
        held += sum(of_one[member] for member in kin.members)
        if held >= room or number == len(found):
            yield _part(task, part)
            part, held = [], 0.0


def _part(task: CompareTask, found: Sequence[Kin]) -> tuple[CompareTask, tuple[int, ...]]:
    positions = sorted(member for kin in found for member in kin.members)
    number = {position: i for i, position in enumerate(positions)}
    experts = tuple(task.experts[position] for position in positions)
    kin = tuple(one.numbered(number.__getitem__) for one in found)
    return replace(task, experts=experts, kin=kin), tuple(positions)
