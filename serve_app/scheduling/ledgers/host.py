"""Which backbones have a copy on the host, and which copies go for another.

Counts only: the tensors live in engine/loading/backbones.py. A copy is pinned while it is being
read, and while it is on its way to the device; what is pinned is never dropped.
"""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(slots=True)
class _Copy:
    num_bytes: int
    is_pinned: bool = True


class HostLedger:
    """Copies of `max_bytes` in all; None: of any number. What raises has changed nothing."""

    def __init__(self, max_bytes: int | None) -> None:
        self._max_bytes = max_bytes
        self._copies: dict[str, _Copy] = {}  # least recently used first

    def __contains__(self, backbone: str) -> bool:
        """Whether it has a copy, or one is being read."""
        return backbone in self._copies

    @property
    def num_bytes(self) -> int:
        return sum(copy.num_bytes for copy in self._copies.values())

    def fits(self, num_bytes: int) -> bool:
        """Whether there is room for one more copy beside all others."""
        return self._max_bytes is None or self.num_bytes + num_bytes <= self._max_bytes

    def take(self, backbone: str, num_bytes: int) -> tuple[str, ...] | None:
        """Give a backbone room for a copy, pinned until it is there.

        -> the copies that were dropped for it, the least recently used ones; None, and nothing
        changed, where those that are pinned leave too little. ValueError where it has a copy.
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
        """It is on its way to the device. ValueError where it is pinned, or has no copy."""
        copy = self._copies.get(backbone)
        if copy is None or copy.is_pinned:
            raise ValueError(f"backbone {backbone!r} has no copy on the host that is not in use")
        self._copies[backbone] = self._copies.pop(backbone)
        copy.is_pinned = True

    def unpin(self, backbone: str) -> None:
        """Its copy is there, or has been used. ValueError where it is not pinned."""
        copy = self._copies.get(backbone)
        if copy is None or not copy.is_pinned:
            raise ValueError(f"backbone {backbone!r} has no copy on the host that is in use")
        copy.is_pinned = False

    def give_back(self, backbone: str) -> bool:
        """Forget its copy, if it has one; False, and nothing changed, while that is pinned."""
        copy = self._copies.get(backbone)
        if copy is not None and copy.is_pinned:
            return False
        self._copies.pop(backbone, None)
        return True

    def check(self, held: Collection[str]) -> None:
        """Assert that these backbones are held, or being read, and no more than there is room."""
        missing = [b for b in held if b not in self._copies]
        assert not missing, f"copies of {missing} are not counted"
        unread = [b for b, copy in self._copies.items() if b not in held and not copy.is_pinned]
        assert not unread, f"copies of {unread} are counted and not there"
        assert self._max_bytes is None or self.num_bytes <= self._max_bytes, "too many copies"
