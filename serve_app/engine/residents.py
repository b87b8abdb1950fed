"""Which models are on the device, and what an operator changes about that. Loads nothing itself."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from serve_app.engine.loading.pooled_releases import PooledReleases
from serve_app.engine.loading.supply import Supply
from serve_app.errors import InUse, TooManyPinned
from serve_app.scheduling.errors import TooManyKept
from serve_app.scheduling.scheduler import Scheduler
from serve_app.scheduling.sequence import ModelKey


@dataclass(frozen=True, slots=True)
class Place:
    """A place now. models: that have its backbone.   num_bytes: of the backbone's files.

    num_running, num_waiting: sequences that need the backbone.   drains: nothing more is admitted,
    so that another backbone gets the place.
    """

    state: Literal["empty", "loading", "resident"]
    models: tuple[ModelKey, ...] = ()
    num_bytes: int = 0
    num_running: int = 0
    num_waiting: int = 0
    is_pinned: bool = False
    drains: bool = False


@dataclass(frozen=True, slots=True)
class Residence:
    """All places in order, and the models whose backbone waits for one, longest first.

    num_switches: how often a place went from one backbone to another.
    """

    places: tuple[Place, ...]
    wanted: tuple[ModelKey, ...]
    num_switches: int


class Residents:
    """Between two steps. Models that have one backbone are loaded, unloaded and pinned together."""

    def __init__(
        self,
        scheduler: Scheduler,
        releases: PooledReleases,
        supply: Supply,
        clock: Callable[[], float],
    ) -> None:
        self._scheduler = scheduler
        self._releases = releases
        self._supply = supply
        self._clock = clock

    def load(self, model: ModelKey) -> None:
        """Load it as soon as a place can be had, as if a request waited for it.

        Raises: UnknownRelease, UnknownModel.
        """
        self._scheduler.residency.ask(self._backbone(model), self._clock())

    def unload(self, model: ModelKey) -> None:
        """Empty its place; does nothing if it has none.

        Raises: UnknownRelease, UnknownModel; InUse if it is pinned, loading or needed.
        """
        backbone, residency = self._backbone(model), self._scheduler.residency
        if backbone in residency.kept:
            raise InUse(f"model {model[1]!r} is pinned: unpin it first")
        if not self._supply.drop_backbone(backbone):
            running = self._scheduler.places.pins(backbone)
            waiting = residency.num_waiting(backbone)
            raise InUse(
                f"model {model[1]!r} is in use: {running} sequences run on it and {waiting} wait"
                if running or waiting
                else f"model {model[1]!r} is being loaded"
            )

    def pin(self, models: Collection[ModelKey]) -> None:
        """Never evict these, and any others again; load those that are not there.

        Raises, with nothing changed: UnknownRelease, UnknownModel, TooManyPinned.
        """
        backbones = {self._backbone(model) for model in models}
        new = backbones - self._scheduler.residency.kept
        try:
            self._scheduler.residency.keep(backbones)
        except TooManyKept as error:
            names = ", ".join(sorted({name for _, name in models}))
            raise TooManyPinned(
                f"{names}: {error.num_kept} backbones cannot be pinned in {error.num_places} "
                f"places: at most {error.num_places - 1}, so that other models can be served"
            ) from error
        for backbone in sorted(new):
            self._scheduler.residency.ask(backbone, self._clock())

    def look(self) -> Residence:
        """What is where now."""
        places, residency = self._scheduler.places, self._scheduler.residency
        held = {places.place_of(b): b for b in (*places.resident, *places.loading)}
        wanted = residency.wanted
        return Residence(
            places=tuple(self._place(held.get(place)) for place in range(places.num_places)),
            wanted=tuple(key for b in wanted for key in self._releases.models_with({b})),
            num_switches=residency.num_switches,
        )

    def _place(self, backbone: str | None) -> Place:
        if backbone is None:
            return Place("empty")
        places, residency = self._scheduler.places, self._scheduler.residency
        models = self._releases.models_with({backbone})
        return Place(
            state="resident" if places.is_resident(backbone) else "loading",
            models=models,
            num_bytes=self._num_bytes(models[0]) if models else 0,
            num_running=places.pins(backbone),
            num_waiting=residency.num_waiting(backbone),
            is_pinned=backbone in residency.kept,
            drains=backbone in residency.draining,
        )

    def _backbone(self, model: ModelKey) -> str:
        return self._releases.model(*model).backbone

    def _num_bytes(self, model: ModelKey) -> int:
        release, name = model
        source = self._releases.release(release).source
        return sum(blob.bytes for blob in source.models[name].backbone)
