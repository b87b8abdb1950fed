"""The releases that are loaded: whose map rows, slots and backbones are whose. No threads."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from serve_app.engine.memory import backbone_key, context_length
from serve_app.engine.packed import PackedModel
from serve_app.engine.source import ReleaseSource
from serve_app.errors import LoadFailed, UnknownModel, UnknownRelease
from serve_app.scheduling.sequence import ModelKey
from serve_app.scheduling.slots import SlotLedger


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that requests may name. row: of the expert maps.   Lengths in tokens."""

    name: str
    row: int
    backbone: str
    context_length: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class LoadedRelease:
    """A release whose slots are in the pool. digests: of its slots, per layer."""

    source: ReleaseSource
    models: Mapping[str, LoadedModel]
    digests: tuple[tuple[str, ...], ...]


class Releases:
    """Takes rows of the pool and of the maps for releases, and gives them back."""

    def __init__(self, packed: PackedModel) -> None:
        self._packed = packed
        self._layers = list(packed.pool.items())
        self.slots = [SlotLedger(layer.num_rows) for _, layer in self._layers]
        self._loaded: dict[str, LoadedRelease] = {}
        self._free_rows: list[int] = []
        self._num_rows = 0

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded)

    def __contains__(self, release: str) -> bool:
        return release in self._loaded

    def release(self, release: str) -> LoadedRelease:
        """Raises: UnknownRelease."""
        try:
            return self._loaded[release]
        except KeyError:
            loaded = ", ".join(sorted(self._loaded)) or "none"
            raise UnknownRelease(f"release {release!r} is not loaded; loaded: {loaded}") from None

    def model(self, release: str, model: str) -> LoadedModel:
        """Raises: UnknownRelease, UnknownModel."""
        models = self.release(release).models
        try:
            return models[model]
        except KeyError:
            raise UnknownModel(
                f"release {release!r} has no model {model!r}; it has: {', '.join(sorted(models))}"
            ) from None

    def check_shape(self, source: ReleaseSource) -> None:
        """Raises: LoadFailed where the release is not of this engine's family."""
        modules = [layer.module for layer in source.layers]
        if modules != [path for path, _ in self._layers]:
            raise LoadFailed(f"release {source.id!r}: its MoE layers are not those of the engine")
        for name, model in source.models.items():
            for (path, layer), slots in zip(self._layers, model.expert_map, strict=True):
                if len(slots) != layer.shape.num_experts:
                    raise LoadFailed(
                        f"model {name!r}, {path}: maps {len(slots)} experts, "
                        f"not {layer.shape.num_experts}"
                    )

    def rows_alone(self, source: ReleaseSource) -> list[int]:
        """Rows that each layer's pool must have to hold this release and nothing else."""
        return [len(set(digests)) for digests in slot_digests(source)]

    def rows_needed(self, source: ReleaseSource) -> list[int]:
        """Rows that each layer's pool must have to hold this release beside what is loaded."""
        return [
            ledger.num_rows - ledger.num_free + len(ledger.missing(digests))
            for ledger, digests in zip(self.slots, slot_digests(source), strict=True)
        ]

    def new_map_rows(self, source: ReleaseSource, *, alone: bool = False) -> int:
        """Map rows that a release's models need beyond those that are free, or, alone, there."""
        there = self._num_rows if alone else len(self._free_rows)
        return max(0, len(source.models) - there)

    def take_slots(self, source: ReleaseSource) -> list[tuple[int, int, int]]:
        """Take rows for a release's slots. -> (layer, slot index, row) of those to be written.

        All or nothing. Raises: ValueError when a layer has too few free rows.
        """
        digests = slot_digests(source)
        for ledger, names in zip(self.slots, digests, strict=True):
            if len(ledger.missing(names)) > ledger.num_free:
                raise ValueError("a pool layer has too few free rows")
        to_write = []
        for layer, (ledger, names) in enumerate(zip(self.slots, digests, strict=True)):
            index_of = {digest: index for index, digest in reversed(list(enumerate(names)))}
            for digest in ledger.take(names):
                to_write.append((layer, index_of[digest], ledger.row(digest)))
        return to_write

    def give_back_slots(self, source: ReleaseSource) -> None:
        """Undo `take_slots`."""
        for ledger, names in zip(self.slots, slot_digests(source), strict=True):
            ledger.give_back(names)

    def register(self, source: ReleaseSource) -> LoadedRelease:
        """Make a release, whose slots are all written, known by its maps and models."""
        models = {}
        for name in sorted(source.models):
            model = source.models[name]
            row = self._take_map_row()
            self._packed.register_row(row, model.config)
            digests = slot_digests(source)
            for position, (_, layer) in enumerate(self._layers):
                names, ledger = digests[position], self.slots[position]
                rows = [ledger.row(names[slot]) for slot in model.expert_map[position]]
                layer.set_map(row, rows)
            models[name] = LoadedModel(
                name=name,
                row=row,
                backbone=backbone_key(model),
                context_length=context_length(model.config),
                vocabulary=self._packed.vocabulary(row),
            )
        loaded = LoadedRelease(source, models, slot_digests(source))
        self._loaded[source.id] = loaded
        return loaded

    def drop(self, release: str) -> tuple[str, ...]:
        """Forget a release that nothing runs on. -> backbones that no other release has."""
        loaded = self._loaded.pop(release)
        self._free_rows += [model.row for model in loaded.models.values()]
        for ledger, names in zip(self.slots, loaded.digests, strict=True):
            ledger.give_back(names)
        needed = {m.backbone for other in self._loaded.values() for m in other.models.values()}
        gone = {model.backbone for model in loaded.models.values()} - needed
        return tuple(sorted(gone))

    def backbones(self) -> dict[str, tuple[ReleaseSource, str]]:
        """Every backbone, and a release and model that it can be read from."""
        return {
            model.backbone: (loaded.source, name)
            for loaded in self._loaded.values()
            for name, model in loaded.models.items()
        }

    def models_with(self, backbones: Collection[str]) -> tuple[ModelKey, ...]:
        """The models that have one of these backbones."""
        return tuple(
            (release, name)
            for release, loaded in sorted(self._loaded.items())
            for name, model in loaded.models.items()
            if model.backbone in backbones
        )

    @property
    def num_logical_experts(self) -> int:
        """Experts that the loaded models would have without sharing."""
        models = sum(len(loaded.models) for loaded in self._loaded.values())
        return models * sum(layer.shape.num_experts for _, layer in self._layers)

    @property
    def num_unique_experts(self) -> int:
        """Slots that are held."""
        return sum(ledger.num_rows - ledger.num_free for ledger in self.slots)

    def _take_map_row(self) -> int:
        if self._free_rows:
            return self._free_rows.pop()
        self._num_rows += 1
        return self._num_rows - 1


def slot_digests(source: ReleaseSource) -> tuple[tuple[str, ...], ...]:
    """Digests of a release's slots, per layer."""
    return tuple(tuple(blob.digest for blob in layer.slots) for layer in source.layers)
