"""The loaded releases: which map rows, parts and backbones belong to which. No threads."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from representation.formats import DENSE
from serve_app.engine.experts.pool import PoolLayer
from serve_app.engine.experts.shelving import (
    ShelfKey,
    ShelfRows,
    maps_of,
    num_slots,
    parts_by_shelf,
    parts_of_expert,
    shelf_rows,
)
from serve_app.engine.loading.part_reads import PartToLoad
from serve_app.engine.model.facts import context_length
from serve_app.engine.model.packed import Configured, PackedModel
from serve_app.engine.source import LayerLike, ModelLike, ReleaseSource, backbone_key
from serve_app.errors import BadRelease, UnknownModel, UnknownRelease
from serve_app.scheduling.ledgers.row_ledger import RowLedger
from serve_app.scheduling.sequence import ModelKey


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that requests may name. row: of the expert maps.   Lengths in tokens.

    beginning: see `Configured`.
    """

    name: str
    row: int
    backbone: str
    context_length: int
    vocabulary: int
    beginning: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LoadedRelease:
    """A release with its parts in the pool. parts: their digests, per layer and shelf."""

    source: ReleaseSource
    models: Mapping[str, LoadedModel]
    parts: tuple[Mapping[ShelfKey, Collection[str]], ...]


class PooledReleases:
    """Takes rows of the shelves and of the maps for releases, and gives them back.

    ledgers: per layer and shelf, which rows hold which part.
    """

    def __init__(self, packed: PackedModel) -> None:
        self._packed = packed
        self._layers = list(packed.pool.items())
        self.ledgers = [
            {key: RowLedger(shelf.num_rows) for key, shelf in layer.shelves.items()}
            for _, layer in self._layers
        ]
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
        """Raises: BadRelease if the release is not of this engine's family."""
        modules = [layer.module for layer in source.layers]
        if modules != [path for path, _ in self._layers]:
            raise BadRelease(f"release {source.id!r}: its MoE layers are not those of the engine")
        for position, (path, pool) in enumerate(self._layers):
            layer = source.layers[position]
            try:
                _check_layer(layer, pool)
                for name, model in source.models.items():
                    _check_experts(layer, pool, model, position, f"model {name!r}")
            except BadRelease as error:
                raise BadRelease(f"release {source.id!r}, {path}: {error}") from error

    def rows_wanted(self, source: ReleaseSource, *, alone: bool = False) -> list[ShelfRows]:
        """Rows that each layer's shelves need for a release.

        Together with what is loaded, or `alone`, if nothing else is. A shelf that nothing else
        needs has exactly the rows that the release takes.
        """
        if alone:
            return [shelf_rows(layer) for layer in source.layers]
        return [
            _rows_beside(ledgers, parts_by_shelf(layer))
            for ledgers, layer in zip(self.ledgers, source.layers, strict=True)
        ]

    def map_rows_wanted(self, source: ReleaseSource, *, alone: bool = False) -> int:
        """Map rows needed for a release's models, together with those of others or alone."""
        free = self._num_rows if alone else len(self._free_rows)
        return self._num_rows + max(0, len(source.models) - free)

    def resize(self, wanted: Sequence[ShelfRows]) -> None:
        """Give each layer's shelves these rows. Shelves that nothing needs go first."""
        layers = list(zip(self._layers, self.ledgers, wanted, strict=True))
        for (_, layer), ledgers, rows in layers:
            for key, shelf in list(layer.shelves.items()):
                if not ledgers[key].num_held and shelf.num_rows != rows.get(key):
                    layer.remove(key)
                    del ledgers[key]
        for (_, layer), ledgers, rows in layers:
            for key, num_rows in rows.items():
                if key not in ledgers:
                    layer.add(key, num_rows)
                    ledgers[key] = RowLedger(num_rows)
                elif num_rows > ledgers[key].num_rows:
                    layer.grow(key, num_rows)
                    ledgers[key].grow(num_rows)

    def take_rows(self, source: ReleaseSource) -> list[PartToLoad]:
        """Take rows for a release's parts. -> the parts that must still be written

        All or nothing. Raises: ValueError if a shelf has too few free rows.
        """
        wanted = [parts_by_shelf(layer) for layer in source.layers]
        for ledgers, parts in zip(self.ledgers, wanted, strict=True):
            for key, digests in parts.items():
                if key not in ledgers or not ledgers[key].fits(digests):
                    raise ValueError("a shelf has too few free rows")
        return [
            PartToLoad(layer, key, digests[digest], self.ledgers[layer][key].row(digest))
            for layer, parts in enumerate(wanted)
            for key, digests in parts.items()
            for digest in self.ledgers[layer][key].take(digests)
        ]

    def give_back_rows(self, source: ReleaseSource) -> None:
        """Undo `take_rows`."""
        self._give_back([parts_by_shelf(layer) for layer in source.layers])

    def _give_back(self, parts: Sequence[Mapping[ShelfKey, Collection[str]]]) -> None:
        for ledgers, of_layer in zip(self.ledgers, parts, strict=True):
            for key, digests in of_layer.items():
                ledgers[key].give_back(digests)

    def register(self, source: ReleaseSource, configured: Mapping[str, Configured]) -> None:
        """Register the maps and models of a release whose parts are all written. All or nothing."""
        models: dict[str, LoadedModel] = {}
        taken: list[int] = []
        try:
            for name in sorted(source.models):
                taken.append(self._take_map_row())
                models[name] = self._register(source, name, taken[-1], configured[name])
        except BaseException:
            self._forget(taken)
            raise
        parts = tuple(parts_by_shelf(layer) for layer in source.layers)
        self._loaded[source.id] = LoadedRelease(source, models, parts)

    def _register(
        self, source: ReleaseSource, name: str, row: int, made: Configured
    ) -> LoadedModel:
        model = source.models[name]
        self._packed.register_row(row, made)
        for position, (_, pool) in enumerate(self._layers):
            rows = {key: ledger.row for key, ledger in self.ledgers[position].items()}
            pool.set_map(row, maps_of(source.layers[position], model, position, rows))
        return LoadedModel(
            name=name,
            row=row,
            backbone=backbone_key(model),
            context_length=context_length(model.config),
            vocabulary=made.vocabulary,
            beginning=made.beginning,
        )

    def _forget(self, rows: Iterable[int]) -> None:
        """These map rows have no models any more."""
        for row in rows:
            self._packed.forget_row(row)
            self._free_rows.append(row)

    def drop(self, release: str) -> tuple[str, ...]:
        """Forget a release that nothing runs on. -> backbones that no other release has."""
        loaded = self._loaded.pop(release)
        self._forget(model.row for model in loaded.models.values())
        self._give_back(loaded.parts)
        needed = {m.backbone for other in self._loaded.values() for m in other.models.values()}
        gone = {model.backbone for model in loaded.models.values()} - needed
        return tuple(sorted(gone))

    def check(self, staged: ReleaseSource | None) -> None:
        """Assert that the rows in use are those of all releases and of one being loaded, and
        that shelves have the rows that are counted."""
        parts = [loaded.parts for loaded in self._loaded.values()]
        if staged is not None:
            parts.append(tuple(parts_by_shelf(layer) for layer in staged.layers))
        for layer, ledgers in enumerate(self.ledgers):
            counted = {key: ledger.num_rows for key, ledger in ledgers.items()}
            shelves = self._layers[layer][1].shelves
            there = {key: shelf.num_rows for key, shelf in shelves.items()}
            assert counted == there, f"layer {layer}: shelves {there}, counted {counted}"
            for key, ledger in ledgers.items():
                ledger.check(of_layers[layer].get(key, ()) for of_layers in parts)

    def backbones(self) -> dict[str, tuple[ReleaseSource, str]]:
        """Every backbone, with a release and model from which it can be read."""
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
        """How many slots are held."""
        return sum(
            num_slots({key: ledger.num_held for key, ledger in ledgers.items()})
            for ledgers in self.ledgers
        )

    def _take_map_row(self) -> int:
        if self._free_rows:
            return self._free_rows.pop()
        self._num_rows += 1
        return self._num_rows - 1


def _rows_beside(
    ledgers: Mapping[ShelfKey, RowLedger], parts: Mapping[ShelfKey, Collection[str]]
) -> dict[ShelfKey, int]:
    """Rows that a layer's shelves need for these parts together with what they hold."""
    rows = {key: len(digests) for key, digests in parts.items()}
    for key, ledger in ledgers.items():
        if ledger.num_held:
            more = len(ledger.missing(parts.get(key, ())))
            rows[key] = max(ledger.num_rows, ledger.num_held + more)
    return dict(sorted(rows.items()))


def _check_layer(layer: LayerLike, pool: PoolLayer) -> None:
    """Raises: BadRelease if a layer's shelves cannot hold its parts."""
    is_dense = all(key.format == DENSE for key in parts_by_shelf(layer))
    if not is_dense and layer.transposed != pool.shape.expert.transposed:
        ways = {False: "(out, in)", True: "(in, out)"}
        raise BadRelease(
            f"its parts were made for matrices {ways[layer.transposed]}; "
            f"the module's are {ways[not layer.transposed]}"
        )


def _check_experts(
    layer: LayerLike, pool: PoolLayer, model: ModelLike, position: int, what: str
) -> None:
    """Raises: BadRelease, naming `what`, if a model's maps do not fit the layer."""
    num_experts = pool.shape.num_experts
    if len(model.expert_map[position]) != num_experts:
        raise BadRelease(
            f"{what} maps {len(model.expert_map[position])} experts, not {num_experts}"
        )
    if model.residual_map and len(model.residual_map[position]) != num_experts:
        raise BadRelease(
            f"{what} has residuals for {len(model.residual_map[position])} experts, "
            f"not {num_experts}"
        )
    for expert in range(num_experts):
        keys = [key for key, _ in parts_of_expert(layer, model, position, expert)]
        if len(set(keys)) < len(keys):
            raise BadRelease(
                f"{what}, expert {expert}: two parts are of one format for the same matrices"
            )
        for name in pool.shape.expert.matrices:
            found = sum(key.holds(name) for key in keys if not key.residual)
            if found != 1:
                raise BadRelease(f"{what}, expert {expert}: {found} slots have its {name}")
