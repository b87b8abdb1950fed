"""Gives memory that nothing uses any more back to the system. Frees none itself."""

import ctypes
import threading
from collections.abc import Callable


def _trim() -> Callable[[int], object]:
    try:
        found: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):  # not glibc
        return lambda _: None
    return found


_malloc_trim = _trim()


def give_back() -> None:
    """Return what malloc keeps for later: as much as a layer after tensors of some megabytes, and
    tens of megabytes after a long text was encoded.
    """
    _malloc_trim(0)


class GivingBack:
    """Gives back each time that so many bytes more were read. For several threads."""

    def __init__(self, after_bytes: int) -> None:
        self._after_bytes = after_bytes
        self._since = 0
        self._lock = threading.Lock()

    def count(self, num_bytes: int) -> None:
        """So many bytes are read next."""
        with self._lock:
            is_due = self._since >= self._after_bytes
            self._since = num_bytes + (0 if is_due else self._since)
        if is_due:
            give_back()
