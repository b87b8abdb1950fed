"""Choices of one small shape, for tests of what is planned."""

import math

import torch

from consolidation.arithmetic.frontier import Point
from consolidation.compare.groups import KEPT, Choices, SlotChoice
from consolidation.compare.menu import FileSizes
from consolidation.compare.part_form import AS_IT_IS, PartForm, PartForms
from consolidation.plan.values import Plan
from consolidation.release import expert_map_bytes, residual_map_bytes
from representation.formats import ExpertShape, Format

SHAPE = ExpertShape({"gate_up_proj": (32, 16), "down_proj": (16, 16)}, False)
SIZES = FileSizes(SHAPE, torch.float32)
SLOT = SIZES.slot(AS_IT_IS)


def digest(layer: int, value: int) -> str:
    return f"{layer:032x}{value:032x}"


def whole(*formats: Format) -> PartForms:
    """Residuals, or the only part of a slot, for all matrices."""
    return tuple(map(PartForm, formats))


def point(*slots: SlotChoice) -> Point[Choices]:
    residuals = [f for slot in slots for use in slot.uses for f in use.residuals]
    built = [slot for slot in slots if slot.content.kind != KEPT]
    size = sum(SIZES.slot(slot.forms) for slot in built) + sum(map(SIZES.residual, residuals))
    return Point(size, math.fsum(use.error for slot in slots for use in slot.uses), slots)


def map_bytes(plan: Plan) -> int:
    own = [expert_map_bytes(plan.expert_map[name]) for name in plan.models]
    return sum(own) + sum(residual_map_bytes(plan.residual_map[name]) for name in plan.models)
