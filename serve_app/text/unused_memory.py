"""Gives memory that was freed back to the system. Frees nothing itself."""

import ctypes
from functools import cache
from typing import Any


def give_back() -> None:
    """Of the C library, where it has a function for that (glibc): else it does so by itself."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
