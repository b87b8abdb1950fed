"""How a release stores each expert, and where the bytes go. Reads only the manifest."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from consolidation.release import Manifest, Part
from consolidation.release.manifest import DTYPES, Dtype, expert_map_bytes, residual_map_bytes
from representation.formats import Colour, Format, Look

SLOTS, RESIDUALS = "slots", "residuals"


MIXED: Colour = "purple"
"""Of experts with residuals that differ in kind."""


@dataclass(frozen=True, slots=True)
class Holding:
    """One expert. `label` has the slot's bits per weight, then its residuals': `4+r8+2`.

    A part for some of the matrices has their first letters: `4+2+r1d`, `3g/4d+2`.
    A slot is shared when several experts are made of it; the look of an expert with a residual says
    nothing of its slot.
    """

    look: Look
    label: str


@dataclass(frozen=True, slots=True)
class ByteRow:
    """Bytes of one kind of file. `count` counts distinct files, or one map per model."""

    what: str
    count: int
    num_bytes: int


Holdings = list[list[Holding]]
"""Every expert of a model, by layer and index."""


def labels(rows: Holdings) -> str:
    """Every expert of a model in words: a line per layer, a column per expert."""
    width = 1 + max(len(held.label) for row in rows for held in row)
    head = "".join(str(index).ljust(width) for index in range(max(map(len, rows))))
    lines = ("".join(held.label.ljust(width) for held in row).rstrip() for row in rows)
    return "\n".join(
        [f"{'layer':<7}{head.rstrip()}", *(f"{i:<7}{line}" for i, line in enumerate(lines))]
    )


def holdings(manifest: Manifest, model: str) -> Holdings:
    """Every expert of a model, by layer and index."""
    found = []
    for layer, pool in enumerate(manifest.layers):
        users = Counter(slot for one in manifest.models.values() for slot in one.expert_map[layer])
        mine = manifest.models[model]
        row = []
        for index, slot in enumerate(mine.expert_map[layer]):
            residuals = [pool.residuals[i] for i in mine.residuals(layer, index)]
            own = "/".join(_label(one, manifest.dtype) for one in pool.slot_parts(slot))
            label = "+".join([own, *(_label(one, manifest.dtype) for one in residuals)])
            formats = [one.parsed for one in residuals]
            look = _look(pool.slots[slot].parsed, formats, shared=users[slot] > 1)
            row.append(Holding(look, label))
        found.append(row)
    return found


def _label(part: Part, dtype: Dtype) -> str:
    return part.parsed.short(DTYPES[dtype]) + "".join(name[0] for name in part.matrices)


def _look(slot: Format, residuals: list[Format], *, shared: bool) -> Look:
    looks = list(dict.fromkeys(residual.residual for residual in residuals))
    if not looks:
        found = slot.shared_slot if shared else slot.own_slot
        assert found is not None, f"a slot in format {slot}"
        return found
    names = " and ".join(look.name for look in looks if look is not None)
    first = looks[0]
    assert first is not None, f"a residual in format {residuals[0]}"
    return Look(f"slot + {names}", first.colour if len(looks) == 1 else MIXED)


def byte_rows(manifest: Manifest) -> list[ByteRow]:
    """Where the bytes of the experts go: slots and residuals by format, then maps."""
    files: dict[str, tuple[str, Format, int]] = {}
    for what, part in _parts(manifest):
        files.setdefault(part.digest, (what, part.parsed, part.bytes))
    rows = []
    for what, fmt in sorted({(what, fmt) for what, fmt, _ in files.values()}, key=_order):
        sizes = [size for *kind, size in files.values() if kind == [what, fmt]]
        rows.append(ByteRow(f"{what}, {fmt.words(DTYPES[manifest.dtype])}", len(sizes), sum(sizes)))
    models = manifest.models.values()
    maps = sum(
        expert_map_bytes(model.expert_map) + residual_map_bytes(model.residual_map)
        for model in models
    )
    return [*rows, ByteRow("maps", len(models), maps)]


def _order(kind: tuple[str, Format]) -> tuple[bool, Format]:
    what, fmt = kind
    return what == RESIDUALS, fmt


def _parts(manifest: Manifest) -> Iterator[tuple[str, Part]]:
    """Slots of all layers come before residuals, so a file that is both counts as a slot."""
    for layer in manifest.layers:
        yield from ((SLOTS, part) for part in layer.slots)
    for layer in manifest.layers:
        yield from ((RESIDUALS, part) for part in layer.residuals)
