"""Gives places to backbones: counts rows of stacks by content, and points places at them.

Copies nothing: loading sees what is still to be written of a backbone.
"""

from collections.abc import Iterable

from serve_app.engine.loading.backbones import Destination
from serve_app.engine.loading.pooled_releases import PooledReleases
from serve_app.engine.model.packed import PackedModel
from serve_app.engine.source import ModelLike, ReleaseSource
from serve_app.scheduling.ledgers.backbone_rows import BackboneRows, Contents


class Placing:
    """The rows of all stacks, and which of them each place reads."""

    def __init__(self, packed: PackedModel, releases: PooledReleases) -> None:
        self._packed = packed
        self._releases = releases
        self._rows = BackboneRows(packed.sizes.num_places, packed.stacks.num_rows)

    def put(self, place: int, model: ModelLike) -> Destination:
        """Give a place to a model's backbone, replacing what it held."""
        contents = self._packed.contents_of(model)
        rows = self._rows.put(place, contents)
        self._packed.point_backbone(place, rows)
        return Destination(place, rows, contents)

    def clear(self, place: int) -> None:
        """Nothing in this place is needed any more."""
        self._rows.clear(place)

    def rows_wanted(self, source: ReleaseSource, *, alone: bool = False) -> dict[str, int]:
        """Rows that each stack needs for a release's backbones; never fewer than there are.

        Together with the loaded releases, or `alone`, if nothing else is loaded.
        """
        own = self._contents(source.models.values())
        if alone:
            return self._rows.wanted(own, alone=True)
        loaded = self._releases.backbones().values()
        others = self._contents(of.models[name] for of, name in loaded)
        return self._rows.wanted([*others, *own])

    def must_grow(self, source: ReleaseSource) -> bool:
        """Whether a release needs more rows than there are."""
        return self.rows_wanted(source) != dict(self._rows.num_rows)

    def grow(self, source: ReleaseSource) -> None:
        """Make the rows that a release needs. Nothing may be copying into stacks meanwhile."""
        self._packed.grow_backbones(self._rows.grow(self.rows_wanted(source)))

    def check(self) -> None:
        """Assert that the counts of rows are right, and that places read these rows."""
        self._rows.check()
        there = self._packed.stacks.num_rows
        assert there == dict(self._rows.num_rows), "stacks have other rows than are counted"
        stacks = self._packed.stacks.stacks()
        for place in range(self._packed.sizes.num_places):
            for stack, row in (self._rows.rows(place) or {}).items():
                read = stacks[stack].rows.of_place[place]
                assert read == row, f"place {place} reads row {read} of {stack!r}, not {row}"

    def _contents(self, models: Iterable[ModelLike]) -> list[Contents]:
        return [self._packed.contents_of(model) for model in models]
