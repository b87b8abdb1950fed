"""Refuses a budget that no plan can keep, before anything is calibrated. Makes no plan.

Every origin takes a slot: one that is kept of a release, or one in the fewest bits, or a dense one
if one of its experts must come back to the bit.
"""

from collections.abc import Sequence

from consolidation.arithmetic.frontier import Point
from consolidation.checkpoints.contents import Contents
from consolidation.checkpoints.family import Family
from consolidation.compare.groups import EXPERTS, KEPT, Content, Group, SlotChoice, Use
from consolidation.compare.kin import Kin
from consolidation.compare.layer import CompareTask
from consolidation.compare.menu import SLOT_FORMATS, FileSizes
from consolidation.compare.part_form import AS_IT_IS, PartForm, PartForms
from consolidation.plan.comparing import fresh
from consolidation.plan.solver import budget_bytes, least_bytes, too_small
from consolidation.plan.terms import Extended, LayerChoices, PlanTerms
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
    extended: Extended | None,
) -> None:
    """Raise `Refused` if slots for all origins take more than the terms allow.

    tasks: those that compare the layers.   origins: the kin of each layer, by position in its task.
    Any origin is taken to find its slot among those that it may have of a release.
    """
    if terms.allowed is None:
        return
    choices = [
        LayerChoices(
            contents,
            sizes,
            tuple(_group(kin.members, sizes, task).numbered(fresh(contents)) for kin in found),
        )
        for (contents, sizes), found, task in zip(layers, origins, tasks, strict=True)
    ]
    needed = least_bytes(choices, terms, extended)
    if terms.allowed < needed:
        raise too_small(terms, needed)


def _smallest(sizes: FileSizes) -> PartForms:
    return min((((PartForm(fmt)),) for fmt in SLOT_FORMATS), key=sizes.slot)


def _group(members: Sequence[int], sizes: FileSizes, task: CompareTask) -> Group:
    """Experts of one origin in the smallest slot that may be theirs."""
    experts = [task.experts[member] for member in members]
    uses = tuple(Use(member, (), 0.0) for member in members)
    if kept := {slot for expert in experts for slot in expert.kept}:
        slot = min(kept)
        choice = SlotChoice(Content(KEPT, (slot,)), AS_IT_IS, uses)
        num_bytes = 0
    else:
        forms = AS_IT_IS if any(expert.locked for expert in experts) else _smallest(sizes)
        choice = SlotChoice(Content(EXPERTS, tuple(members)), forms, uses)
        num_bytes = sizes.slot(forms)
    return Group(tuple(members), {}, ({},) * len(uses), (Point(num_bytes, 0.0, (choice,)),))
