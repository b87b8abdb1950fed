"""Which backbones have a copy on the host, and which copies make room for another.

Counts only: the tensors live in engine/loading/backbones.py. A copy is pinned while it is being
read, and while it is being copied to the device. Pinned copies are never dropped.
"""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(slots=True)
class _Copy:
    num_bytes: int
    is_pinned: bool = True


class HostLedger:
    """At most `max_bytes` of copies; None: no limit. A method that raises changes nothing."""

    def __init__(self, max_bytes: int | None) -> None:
        self._max_bytes = max_bytes
        self._copies: dict[str, _Copy] = {}  # least recently used first

    def __contains__(self, backbone: str) -> bool:
        """Whether it has a copy, or its copy is being read."""
        return backbone in self._copies

    @property
    def num_bytes(self) -> int:
        return sum(copy.num_bytes for copy in self._copies.values())

    def fits(self, num_bytes: int) -> bool:
        """Whether there is room for one more copy without dropping any."""
        return self._max_bytes is None or self.num_bytes + num_bytes <= self._max_bytes

    def take(self, backbone: str, num_bytes: int) -> tuple[str, ...] | None:
        """Give a backbone room for a copy, pinned until it is there.

        -> the copies that were dropped for it, least recently used first; None, with nothing
        changed, if pinned copies leave too little room. ValueError if it has a copy.
        """
        if backbone in self._copies:
            raise ValueError(f"backbone {backbone!r} has a copy on the host already")
        missing = 0 if self._max_bytes is None else self.num_bytes + num_bytes - self._max_bytes
        dropped = []
        for other, copy in self._copies.items():
            if missing > 0 and not copy.is_pinned:
                dropped.append(other)
                missing -= copy.num_bytes
        if missing > 0:
            return None
        for other in dropped:
            del self._copies[other]
        self._copies[backbone] = _Copy(num_bytes)
        return tuple(dropped)

    def pin(self, backbone: str) -> None:
        """It is being copied to the device. ValueError if it is pinned, or has no copy."""
        copy = self._copies.get(backbone)
        if copy is None or copy.is_pinned:
            raise ValueError(f"backbone {backbone!r} has no copy on the host that is not in use")
        self._copies[backbone] = self._copies.pop(backbone)
        copy.is_pinned = True

    def unpin(self, backbone: str) -> None:
        """Its copy has been read, or has been used. ValueError if it is not pinned."""
        copy = self._copies.get(backbone)
        if copy is None or not copy.is_pinned:
            raise ValueError(f"backbone {backbone!r} has no copy on the host that is in use")
        copy.is_pinned = False

    def give_back(self, backbone: str) -> bool:
        """Forget its copy, if it has one. False, with nothing changed, while it is pinned."""
        copy = self._copies.get(backbone)
        if copy is not None and copy.is_pinned:
            return False
        self._copies.pop(backbone, None)
        return True

    def check(self, held: Collection[str]) -> None:
        """Assert that exactly these backbones are held or being read, and that they fit."""
        missing = [b for b in held if b not in self._copies]
        assert not missing, f"copies of {missing} are not counted"
        unread = [b for b, copy in self._copies.items() if b not in held and not copy.is_pinned]
        assert not unread, f"copies of {unread} are counted and not there"
        assert self._max_bytes is None or self.num_bytes <= self._max_bytes, "too many copies"
