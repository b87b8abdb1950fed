"""What was chosen, as layers to build, maps of the models, and exact bytes. Chooses nothing."""

from collections.abc import Sequence

from consolidation.checkpoints.contents import Contents, Expert, NeuronOrder
from consolidation.compare.groups import BASE, EXPERTS, KEPT, Group, SlotChoice
from consolidation.compare.part_form import AS_IT_IS
from consolidation.plan.terms import Extended, LayerChoices
from consolidation.plan.values import (
    Held,
    KeptSlot,
    Maps,
    Member,
    PlannedLayer,
    ResidualMaps,
    Slot,
)
from consolidation.release import expert_map_bytes, residual_map_bytes
from representation.step_reads import DecodeStep, LayerParts, bytes_read


def planned_layers(
    layers: Sequence[LayerChoices],
    chosen: Sequence[Sequence[SlotChoice]],
    extended: Extended | None,
) -> list[PlannedLayer]:
    """What to build, layer by layer. chosen: the slots of each layer."""
    return [
        planned_layer(number, layer, choices, extended)
        for number, (layer, choices) in enumerate(zip(layers, chosen, strict=True))
    ]


def planned_layer(
    number: int, layer: LayerChoices, choices: Sequence[SlotChoice], extended: Extended | None
) -> PlannedLayer:
    """What to build of one layer."""
    contents = layer.contents
    groups = {member: group for group in layer.groups or () for member in group.members}
    built, shared = [], dict[int, tuple[Member, ...]]()
    for choice in sorted(choices, key=lambda choice: choice.uses[0].expert):
        kind, positions = choice.content.kind, choice.content.positions
        orders = _orders(contents, groups.get(choice.uses[0].expert), choice)
        members = tuple(
            Member(
                contents.users[use.expert], use.residuals, orders.get(use.expert), use.by_adapter
            )
            for use in choice.uses
        )
        if kind == KEPT:
            shared[positions[0]] = shared.get(positions[0], ()) + members
            continue
        if kind == BASE:
            built.append(Slot((Held(None, positions[0]),), choice.forms, members, None))
            continue
        holds = tuple(
            _held(contents.users[position], orders.get(position)) for position in positions
        )
        as_it_is = len(holds) == 1 and choice.forms == AS_IT_IS and holds[0].order is None
        digest = contents.digests[positions[0]] if as_it_is else None
        built.append(Slot(holds, choice.forms, members, digest))
    there = extended.manifest.layers[number].slots if extended else ()
    kept = sorted({*(extended.slots(number) if extended else ()), *shared})
    return PlannedLayer(
        module=contents.module,
        kept=tuple(KeptSlot(i, shared.get(i, ()), there[i].others) for i in kept),
        slots=tuple(built),
        kept_residuals=tuple(extended.residuals(number)) if extended else (),
    )


def _held(users: Sequence[Expert], order: NeuronOrder | None) -> Held:
    return Held(users[0].model, users[0].index, len(users), order)


def _orders(contents: Contents, group: Group | None, choice: SlotChoice) -> dict[int, NeuronOrder]:
    """The orders of neurons that experts of one slot are put in, by position.

    Experts that all lie in the same other order are left in it.
    """
    content = choice.content
    positions = {use.expert for use in choice.uses}
    if content.kind == EXPERTS:
        positions |= {*content.positions}
    via = {position: group.via.get(position) if group else None for position in positions}
    if group is None or (content.kind == EXPERTS and len(set(via.values())) == 1):
        return {}
    reference = contents.users[group.members[0]][0]
    return {
        position: NeuronOrder(contents.users[other][0], reference)
        for position, other in via.items()
        if other is not None
    }


def expert_maps(
    layers: Sequence[PlannedLayer], models: Sequence[str], extended: Extended | None
) -> tuple[Maps, ResidualMaps]:
    """By model, the slot of each expert, and its residuals; none where no expert has any."""
    rows = [layer_maps(number, layer, models, extended) for number, layer in enumerate(layers)]
    maps = {name: tuple(slots[name] for slots, _ in rows) for name in models}
    residual_maps = {name: tuple(residuals[name] for _, residuals in rows) for name in models}
    return maps, {
        name: found if any(own for row in found for own in row) else ()
        for name, found in residual_maps.items()
    }


def layer_maps(
    number: int, layer: PlannedLayer, models: Sequence[str], extended: Extended | None
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[tuple[int, ...], ...]]]:
    """The row of each model for one layer: the slots of its experts, and their residuals."""
    found: dict[str, dict[int, tuple[int, tuple[int, ...]]]] = {name: {} for name in models}
    end = len(layer.kept_residuals)
    parts = layer.parts
    for slot, member in layer.members:
        own = tuple(range(end, end + len(member.residuals)))
        end += len(own)
        for user in member.users:
            found[user.model][user.index] = parts[slot].start, own
    slot_at = {kept.index: own.start for kept, own in zip(layer.kept, parts, strict=False)}
    residual_at = {index: place for place, index in enumerate(layer.kept_residuals)}
    for name in extended.models if extended else ():
        before = extended.manifest.models[name] if extended else None
        for index, slot in enumerate(before.expert_map[number] if before else ()):
            kept = before.residuals(number, index) if before else ()
            found[name][index] = slot_at[slot], tuple(residual_at[r] for r in kept)
    slots, residuals = {}, {}
    for name, experts in found.items():
        ordered = [experts[index] for index in sorted(experts)]
        slots[name] = tuple(slot for slot, _ in ordered)
        residuals[name] = tuple(own for _, own in ordered)
    return slots, residuals


def planned_bytes(
    choices: Sequence[LayerChoices],
    layers: Sequence[PlannedLayer],
    maps: tuple[Maps, ResidualMaps],
    extended: Extended | None,
) -> int:
    """Bytes of all files, each content that is known beforehand once, and of the maps."""
    known: dict[str, int] = {}
    size = 0
    for number, (layer, choice) in enumerate(zip(layers, choices, strict=True)):
        own, there = layer_bytes(number, layer, choice, extended)
        size += own
        known |= there
    expert_maps, residual_maps = maps
    size += sum(expert_map_bytes(rows) for rows in expert_maps.values())
    size += sum(residual_map_bytes(rows) for rows in residual_maps.values())
    return size + sum(known.values())


def layer_bytes(
    number: int, layer: PlannedLayer, choice: LayerChoices, extended: Extended | None
) -> tuple[int, dict[str, int]]:
    """Bytes of one layer's files, without those whose content is known; and these by digest."""
    known: dict[str, int] = {}
    size = sum(choice.sizes.residual(r) for _, m in layer.members for r in m.residuals)
    for slot in layer.slots:
        if slot.digest is None:
            size += choice.sizes.slot(slot.forms)
        else:
            known[slot.digest] = choice.sizes.slot(slot.forms)
    if extended is not None:
        there = extended.manifest.layers[number]
        kept = [part for slot in layer.kept for part in there.slot_parts(slot.index)]
        kept += [there.residuals[index] for index in layer.kept_residuals]
        known |= {part.digest: part.bytes for part in kept}
    return size, known


def planned_step_bytes(
    choices: Sequence[LayerChoices],
    layers: Sequence[PlannedLayer],
    maps: tuple[Maps, ResidualMaps],
    extended: Extended | None,
    step: DecodeStep,
) -> int:
    """Bytes of experts that a decode step of all models reads."""
    expert_maps, residual_maps = maps
    found = []
    for number, (layer, choice) in enumerate(zip(layers, choices, strict=True)):
        if not step.reads(layer.module):
            continue
        models = []
        parts = {own.start: own for own in layer.parts}
        for name, rows in expert_maps.items():
            added = residual_maps[name][number] if residual_maps[name] else [()] * len(rows[number])
            models.append([(parts[s], own) for s, own in zip(rows[number], added, strict=True)])
        found.append(LayerParts(*_part_bytes(number, layer, choice, extended), models))
    return bytes_read(found, step)


def _part_bytes(
    number: int, layer: PlannedLayer, choice: LayerChoices, extended: Extended | None
) -> tuple[list[int], list[int]]:
    """Bytes of a layer's slots and of its residuals on a device, in their order."""
    slots, residuals = [], []
    if extended is not None:
        there, dtype = extended.manifest.layers[number], extended.manifest.dtype
        for kept in layer.kept:
            slots += [
                there.part_bytes(part, dtype, residual=False)
                for part in there.slot_parts(kept.index)
            ]
        for index in layer.kept_residuals:
            residuals.append(there.part_bytes(there.residuals[index], dtype, residual=True))
    for slot in layer.slots:
        slots += [choice.sizes.on_device(form, residual=False) for form in slot.forms]
    for _, member in layer.members:
        residuals += [choice.sizes.on_device(one, residual=True) for one in member.residuals]
    return slots, residuals
