"""What an engine replica tells those who choose among replicas. Serve carries it, as a plain dict.

Serve tells all of them whenever this changes, so nothing is in it that changes with each request.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """resident: models on its device, and aliases of them.   releases: that it can answer with.

    admits: whether new requests are answered without waiting for others to end.
    has_all: whether all models are on its device.   has_room: whether one more has a free place.
    """

    resident: Collection[str] = ()
    releases: Collection[str] = ()
    admits: bool = True
    has_all: bool = False
    has_room: bool = True

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        """What `tell` has made. A replica that has told nothing yet holds nothing, and admits."""
        return cls(
            frozenset(told.get("resident", ())),
            frozenset(told.get("releases", ())),
            told.get("admits", True),
            told.get("has_all", False),
            told.get("has_room", True),
        )

    def tell(self) -> dict[str, Any]:
        """The same facts make the same text."""
        return {
            "resident": sorted(self.resident),
            "releases": sorted(self.releases),
            "admits": self.admits,
            "has_all": self.has_all,
            "has_room": self.has_room,
        }
