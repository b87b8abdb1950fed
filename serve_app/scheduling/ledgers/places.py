"""Which backbone is in which place. Counts only: the stacked tensors live in the engine.

A place is empty, loading, or holds a resident backbone. A loading backbone *arrives* when steps
may already use it, and wait for the tensors that they need. Running sequences pin the backbone that
they need, whether it is resident or arriving. What is pinned or loading is never evicted.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class _Place:
    backbone: str | None = None
    loading: bool = False
    arriving: bool = False
    pins: int = 0
    last_used: int = 0


class PlaceLedger:
    """`num_places` places on the device. A method that raises changes nothing."""

    def __init__(self, num_places: int) -> None:
        if num_places < 1:
            raise ValueError(f"num_places {num_places} must be at least 1")
        self._places = [_Place() for _ in range(num_places)]
        self._place_of: dict[str, int] = {}
        self._uses = 0
        self.num_loads = 0
        self.num_evictions = 0

    @property
    def num_places(self) -> int:
        return len(self._places)

    @property
    def resident(self) -> tuple[str, ...]:
        """Backbones that are on the device now, by place."""
        return tuple(p.backbone for p in self._places if p.backbone is not None and not p.loading)

    @property
    def loading(self) -> tuple[str, ...]:
        """Backbones that are being copied, by place."""
        return tuple(p.backbone for p in self._places if p.backbone is not None and p.loading)

    def place_of(self, backbone: str) -> int | None:
        """The place that it has, loading or resident."""
        return self._place_of.get(backbone)

    def is_resident(self, backbone: str) -> bool:
        place = self._place_of.get(backbone)
        return place is not None and not self._places[place].loading

    def is_arriving(self, backbone: str) -> bool:
        """Whether it is loading and steps may already use it."""
        place = self._place_of.get(backbone)
        return place is not None and self._places[place].arriving

    @property
    def pinned(self) -> tuple[str, ...]:
        """Backbones that running sequences need, by place."""
        return tuple(p.backbone for p in self._places if p.backbone is not None and p.pins)

    def pins(self, backbone: str) -> int:
        """How many running sequences need it; 0 if it has no place."""
        place = self._place_of.get(backbone)
        return 0 if place is None else self._places[place].pins

    def last_used(self, backbone: str) -> int:
        """When it was last pinned, unpinned or loaded, as a count of uses, not a time."""
        return self._held(backbone).last_used

    def empty(self) -> int | None:
        """The first empty place."""
        return next((i for i, p in enumerate(self._places) if p.backbone is None), None)

    def unpinned(self) -> list[str]:
        """Resident backbones that nothing needs, least recently used first."""
        idle = [b for b in self.resident if not self.pins(b)]
        return sorted(idle, key=self.last_used)

    def begin_load(self, backbone: str, place: int) -> str | None:
        """Give the place to a backbone, evicting what is there; returns what was evicted.

        ValueError if the backbone already has a place, or this one is loading or pinned.
        """
        held = self._places[place]
        if backbone in self._place_of:
            raise ValueError(f"backbone {backbone!r} has place {self._place_of[backbone]} already")
        if held.loading or held.pins:
            raise ValueError(
                f"place {place} cannot be given to backbone {backbone!r}: {held.backbone!r} is"
                f" {'loading there' if held.loading else f'pinned there by {held.pins} sequences'}"
            )
        evicted = held.backbone
        if evicted is not None:
            del self._place_of[evicted]
            self.num_evictions += 1
        self._places[place] = _Place(backbone, loading=True)
        self._place_of[backbone] = place
        self.num_loads += 1
        return evicted

    def arriving(self, backbone: str) -> None:
        """Steps may use it from now on. ValueError if it is not loading."""
        self._loading(backbone).arriving = True

    def loaded(self, backbone: str) -> None:
        """The copy is complete. ValueError if it is not loading."""
        place = self._loading(backbone)
        place.loading = place.arriving = False
        self._touch(place)

    def load_failed(self, backbone: str) -> None:
        """The copy failed and the place is empty again. ValueError unless loading, unpinned."""
        if self._loading(backbone).pins:
            raise ValueError(f"backbone {backbone!r} is pinned and cannot be given up")
        self._clear(backbone)

    def pin(self, backbone: str) -> int:
        """One more running sequence needs it; returns its place.

        ValueError if it is neither resident nor arriving.
        """
        if not self.is_resident(backbone) and not self.is_arriving(backbone):
            raise ValueError(f"backbone {backbone!r} is not resident and cannot be pinned")
        place = self._held(backbone)
        place.pins += 1
        self._touch(place)
        return self._place_of[backbone]

    def unpin(self, backbone: str) -> None:
        """One running sequence no longer needs it. ValueError if it is not pinned."""
        place = self._held(backbone)
        if not place.pins:
            raise ValueError(f"backbone {backbone!r} is not pinned")
        place.pins -= 1
        self._touch(place)

    def forget(self, backbone: str) -> bool:
        """Empty its place. False, with nothing changed, while it is loading or pinned."""
        if backbone in self._place_of:
            if not self.is_resident(backbone) or self.pins(backbone):
                return False
            self._clear(backbone)
        return True

    def check(self, pins: Mapping[str, int]) -> None:
        """Assert that the pins are these, and that each backbone has one place."""
        held = {p.backbone: i for i, p in enumerate(self._places) if p.backbone is not None}
        assert held == self._place_of, f"places {held}, index {self._place_of}"
        counted = {b: self.pins(b) for b in held if self.pins(b)}
        assert counted == {b: n for b, n in pins.items() if n}, f"pins {counted}, needed {pins}"
        for place in self._places:
            assert place.loading or not place.arriving, "what arrives is not loading"
            assert place.arriving or not (place.loading and place.pins), "a loading place is pinned"

    def _held(self, backbone: str) -> _Place:
        if backbone not in self._place_of:
            raise ValueError(f"backbone {backbone!r} has no place")
        return self._places[self._place_of[backbone]]

    def _loading(self, backbone: str) -> _Place:
        place = self._held(backbone)
        if not place.loading:
            raise ValueError(f"backbone {backbone!r} is resident, not loading")
        return place

    def _touch(self, place: _Place) -> None:
        self._uses += 1
        place.last_used = self._uses

    def _clear(self, backbone: str) -> None:
        self._places[self._place_of.pop(backbone)] = _Place()
