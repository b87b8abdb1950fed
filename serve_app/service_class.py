"""The classes of requests: how urgent one is. What that means for a step is in `scheduling`."""

from enum import StrEnum


class ServiceClass(StrEnum):
    """From the most urgent to the least."""

    INTERACTIVE = "interactive"
    """Before standard ones, as long as its tenant is not too far ahead of others."""
    STANDARD = "standard"
    BATCH = "batch"
    """In what the others leave over, or once it has waited long enough."""

    @property
    def order(self) -> int:
        """0 is the most urgent."""
        return _ORDER[self]


_ORDER = {each: order for order, each in enumerate(ServiceClass)}
