"""Refuses a budget that no plan can keep, before anything is calibrated. Makes no plan.

Every origin takes a slot: one that is kept of a release, or one in the fewest bits, or a dense one
if one of its experts must come back to the bit. Most budgets that are too small do not even have
slots for one model; for those, some of its layers are looked at before all models are read.
"""

from collections.abc import Sequence
from itertools import accumulate

from consolidation.arithmetic.frontier import Point
from consolidation.checkpoints.contents import Contents, User
from consolidation.checkpoints.family import Family
from consolidation.compare.groups import EXPERTS, KEPT, Content, Group, SlotChoice, Use
from consolidation.compare.kin import Kin
from consolidation.compare.layer import CompareTask, Distinct
from consolidation.compare.menu import SLOT_FORMATS, FileSizes
from consolidation.compare.part_form import AS_IT_IS, PartForm, PartForms
from consolidation.plan.comparing import find_all_origins, fresh
from consolidation.plan.solver import budget_bytes, least_bytes, too_small
from consolidation.plan.terms import Extended, LayerChoices, PlanTerms
from consolidation.recipe import Recipe
from consolidation.release import expert_map_bytes
from consolidation.release.manifest import DTYPES
from consolidation.run.journal import Stages


def allowed_bytes(recipe: Recipe, family: Family) -> int | None:
    """Bytes that the experts may take; None: nothing may be lost."""
    if recipe.expert_bytes is not None:
        return recipe.expert_bytes
    one_model, num_models = family.expert_bytes_one_model, len(family.models)
    return budget_bytes(recipe.expert_budget, one_model, num_models)


def check_one_model(recipe: Recipe, family: Family, stages: Stages) -> None:
    """Raise `Refused` if slots for one model take more than the recipe allows.

    From headers alone it is known what they take if no two experts share one. Only if that is too
    much, experts are read: of as many layers of one model as take too much by themselves. Where
    some of those do share, nothing is refused here. Nor is it where a release is extended, whose
    slots may serve.
    """
    allowed = allowed_bytes(recipe, family)
    if allowed is None or family.extended is not None or not family.checkpoints:
        return
    # All experts of an exact model must come back, and so need the largest slots.
    name = min(recipe.exact & family.checkpoints.keys(), default=min(family.checkpoints))
    layers = family.checkpoints[name].experts
    slots = [
        source.num_experts * sizes.slot(AS_IT_IS if name in recipe.exact else _smallest(sizes))
        for source in layers
        for sizes in (FileSizes(source.shape, DTYPES[family.dtype]),)
    ]
    expert_map = [range(source.num_experts) for source in layers]
    needed = sum(slots) + len(family.models) * expert_map_bytes(expert_map)
    if needed <= allowed:
        return
    enough = sum(total <= allowed for total in accumulate(slots)) + 1
    tasks = [_of_one_model(recipe, family, name, layer) for layer in range(len(layers))[:enough]]
    origins = find_all_origins(tasks, stages, stage="budget")
    if all(len(found) == len(task.experts) for found, task in zip(origins, tasks, strict=True)):
        raise too_small(allowed, family.expert_bytes_one_model, needed)


def _of_one_model(recipe: Recipe, family: Family, name: str, layer: int) -> CompareTask:
    """Finds origins among the experts of one model alone."""
    source = family.source(name, layer)
    experts = tuple(
        Distinct(source, index, (User(name, index, 1.0),), "", locked=name in recipe.exact)
        for index in range(source.num_experts)
    )
    dtype = DTYPES[family.dtype]
    return CompareTask(layer, experts, None, (), None, dtype, device=recipe.device)


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
        raise too_small(terms.allowed, terms.one_model, needed)


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
