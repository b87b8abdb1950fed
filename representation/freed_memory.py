"""Gives memory that nothing uses any more back to the system. Frees none itself."""

import ctypes
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
