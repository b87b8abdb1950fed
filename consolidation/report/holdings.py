"""How a release stores each expert, and where the bytes go. Reads only the manifest."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from consolidation.release import Manifest, Part
from consolidation.release.manifest import DTYPES, expert_map_bytes, residual_map_bytes
from representation.formats import Format

SLOTS, RESIDUALS = "slots", "residuals"


class Kind(StrEnum):
    """How an expert is stored, in a few words. A slot is shared if several experts are made of it;
    kinds with a residual say nothing about their slot.
    """

    SHARED = "shared slot"
    SHARED_PACKED = "shared slot, packed"
    OWN = "own slot"
    OWN_PACKED = "own slot, packed"
    LOW_RANK = "slot + low rank"
    DIFFERENCE = "slot + k-bit difference"
    BOTH = "slot + low rank and k bits"


@dataclass(frozen=True, slots=True)
class Holding:
    """One expert. `label` has the slot's bits per weight, then its residuals': `4+r8+2`."""

    kind: Kind
    label: str


@dataclass(frozen=True, slots=True)
class ByteRow:
    """Bytes of one kind of file. `count` counts distinct files, or one map per model."""

    what: str
    count: int
    num_bytes: int


def holdings(manifest: Manifest, model: str) -> list[list[Holding]]:
    """Every expert of a model, by layer and index."""
    found = []
    for layer, pool in enumerate(manifest.layers):
        users = Counter(slot for one in manifest.models.values() for slot in one.expert_map[layer])
        mine = manifest.models[model]
        row = []
        for index, slot in enumerate(mine.expert_map[layer]):
            residuals = [pool.residuals[i].parsed for i in mine.residuals(layer, index)]
            fmt = pool.slots[slot].parsed
            label = "+".join(_label(manifest, one) for one in (fmt, *residuals))
            row.append(Holding(_kind(fmt, residuals, shared=users[slot] > 1), label))
        found.append(row)
    return found


def _kind(slot: Format, residuals: list[Format], *, shared: bool) -> Kind:
    kinds = {residual.kind for residual in residuals}
    if kinds:
        if len(kinds) > 1:
            return Kind.BOTH
        return Kind.LOW_RANK if "rank" in kinds else Kind.DIFFERENCE
    if slot.kind == "dense":
        return Kind.SHARED if shared else Kind.OWN
    return Kind.SHARED_PACKED if shared else Kind.OWN_PACKED


def _label(manifest: Manifest, fmt: Format) -> str:
    if fmt.kind == "rank":
        return f"r{fmt.rank}"
    return str(fmt.bits if fmt.kind == "packed" else 8 * DTYPES[manifest.dtype].itemsize)


def _words(manifest: Manifest, fmt: Format) -> str:
    if fmt.kind == "rank":
        return f"rank {fmt.rank}"
    if fmt.kind == "dense":
        return manifest.dtype
    bits = "signs" if fmt.bits == 1 else f"{fmt.bits} bits"
    return f"{bits} in groups of {fmt.group}"


def byte_rows(manifest: Manifest) -> list[ByteRow]:
    """Where the bytes of the experts go: slots and residuals by format, then maps."""
    files: dict[str, tuple[str, Format, int]] = {}
    for what, part in _parts(manifest):
        files.setdefault(part.digest, (what, part.parsed, part.bytes))
    rows = []
    for what, fmt in sorted({(what, fmt) for what, fmt, _ in files.values()}, key=_order):
        sizes = [size for *kind, size in files.values() if kind == [what, fmt]]
        rows.append(ByteRow(f"{what}, {_words(manifest, fmt)}", len(sizes), sum(sizes)))
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
