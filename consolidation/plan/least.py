"""Refuses a budget that no plan can keep, before anything is calibrated. Makes no plan.

Every origin takes a slot: in the fewest bits, or dense if one of its experts must come back to the
bit.
"""

from collections.abc import Sequence

from consolidation.arithmetic.frontier import Point
from consolidation.checkpoints.contents import Contents
from consolidation.checkpoints.family import Family
from consolidation.compare.groups import EXPERTS, Content, Group, SlotChoice, Use
from consolidation.compare.kin import Kin
from consolidation.compare.layer import CompareTask
from consolidation.compare.menu import SLOT_FORMATS, FileSizes
from consolidation.compare.part_form import AS_IT_IS, PartForm, PartForms
from consolidation.plan.solver import budget_bytes, least_bytes, too_small
from consolidation.plan.terms import LayerChoices, PlanTerms
from consolidation.recipe import Recipe


def allowed_bytes(recipe: Recipe, family: Family) -> int | None:
    """Bytes that the experts may take; None: nothing may be lost."""
    if recipe.expert_bytes is not None:
        return recipe.expert_bytes
    one_model, num_models = family.expert_bytes_one_model, len(family.models)
    return budget_bytes(recipe.expert_budget, one_model, num_models)


def check_budget(
    layers: Sequence[tuple[Contents, FileSizes]],
    terms: PlanTerms,
    tasks: Sequence[CompareTask],
    origins: Sequence[Sequence[Kin]],
) -> None:
    """Raise `Refused` if slots for all origins take more than the terms allow.

    layers: none is of a release that is extended.   tasks: those that compare the layers.
    origins: the kin of each layer.
    """
    if terms.allowed is None:
        return
    locked = [[expert.locked for expert in task.experts] for task in tasks]
    choices = [
        LayerChoices(contents, sizes, tuple(_group(kin.members, sizes, own) for kin in found))
        for (contents, sizes), found, own in zip(layers, origins, locked, strict=True)
    ]
    needed = least_bytes(choices, terms, None)
    if terms.allowed < needed:
        raise too_small(terms, needed)


def _smallest(sizes: FileSizes) -> PartForms:
    return min((((PartForm(fmt)),) for fmt in SLOT_FORMATS), key=sizes.slot)


def _group(members: Sequence[int], sizes: FileSizes, locked: Sequence[bool]) -> Group:
    """Experts of one origin in the smallest slot that may be theirs."""
    forms = AS_IT_IS if any(locked[member] for member in members) else _smallest(sizes)
    uses = tuple(Use(member, (), 0.0) for member in members)
    choice = SlotChoice(Content(EXPERTS, tuple(members)), forms, uses)
    return Group(tuple(members), {}, ({},) * len(uses), (Point(sizes.slot(forms), 0.0, (choice,)),))
