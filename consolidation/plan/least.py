"""Refuses a budget that no plan can keep, before anything is calibrated. Makes no plan.

Every origin takes a slot: in the fewest bits, or dense if one of its experts must come back to the
bit. Experts of one model nearly always have different origins, so shapes alone say what they take.
Only below that are origins looked for.
"""

from collections.abc import Sequence

from consolidation.arithmetic.frontier import Point
from consolidation.checkpoints.contents import Contents
from consolidation.checkpoints.family import Family
from consolidation.compare.groups import EXPERTS, Content, Group, SlotChoice, Use
from consolidation.compare.layer import CompareTask
from consolidation.compare.menu import SLOT_FORMATS, FileSizes
from consolidation.compare.origins import find_origins
from consolidation.plan.solver import budget_bytes, least_bytes, too_small
from consolidation.plan.terms import LayerChoices, PlanTerms
from consolidation.recipe import Recipe
from consolidation.run.journal import Stages
from representation.formats import DENSE, Format


def allowed_bytes(recipe: Recipe, family: Family) -> int | None:
    """Bytes that the experts may take; None: nothing may be lost."""
    if recipe.expert_bytes is not None:
        return recipe.expert_bytes
    one_model, num_models = family.expert_bytes_one_model, len(family.models)
    return budget_bytes(recipe.expert_budget, one_model, num_models)


def check_budget(
    layers: Sequence[tuple[Contents, FileSizes]],
    terms: PlanTerms,
    tasks: Sequence[tuple[str, CompareTask]],
    stages: Stages,
) -> None:
    """Raise `Refused` if slots for all origins take more than the terms allow.

    layers: none is of a release that is extended.   tasks: those that will compare the layers.
    """
    if terms.allowed is None or terms.allowed >= _of_one_model(layers):
        return
    sizes = [task.num_bytes for _, task in tasks]
    origins = stages.run("origins", find_origins, tasks, noun="layers", sizes=sizes)
    locked = [[expert.locked for expert in task.experts] for _, task in tasks]
    choices = [
        LayerChoices(contents, sizes, tuple(_group(members, sizes, own) for members in found))
        for (contents, sizes), found, own in zip(layers, origins, locked, strict=True)
    ]
    needed = least_bytes(choices, terms, None)
    if terms.allowed < needed:
        raise too_small(terms, needed)


def _of_one_model(layers: Sequence[tuple[Contents, FileSizes]]) -> int:
    """Bytes if no two experts of a model have one origin, and all models' are the same."""
    return sum(_num_of_a_model(found) * sizes.slot(_smallest(sizes)) for found, sizes in layers)


def _num_of_a_model(contents: Contents) -> int:
    """How many distinct experts the model with the most of them has."""
    num: dict[str, int] = {}
    for users in contents.users:
        for model in {user.model for user in users}:
            num[model] = num.get(model, 0) + 1
    return max(num.values())


def _smallest(sizes: FileSizes) -> Format:
    return min(SLOT_FORMATS, key=sizes.slot)


def _group(members: Sequence[int], sizes: FileSizes, locked: Sequence[bool]) -> Group:
    """Experts of one origin in the smallest slot that may be theirs."""
    fmt = DENSE if any(locked[member] for member in members) else _smallest(sizes)
    uses = tuple(Use(member, (), 0.0) for member in members)
    choice = SlotChoice(Content(EXPERTS, tuple(members)), fmt, uses)
    return Group(tuple(members), {}, ({},) * len(uses), (Point(sizes.slot(fmt), 0.0, (choice,)),))
