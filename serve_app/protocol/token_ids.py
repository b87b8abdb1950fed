"""Tokens of a request as bytes, 4 for each: millions of them travel as one copy. No limits."""

from array import array
from collections.abc import Iterable

_KIND = "I"
_BYTES = array(_KIND).itemsize


def packed(tokens: Iterable[int]) -> bytes:
    """Raises OverflowError and TypeError for what is no number from 0 to 2**32 - 1."""
    return array(_KIND, tokens).tobytes()


def unpacked(tokens: bytes) -> list[int]:
    """The inverse."""
    return array(_KIND, tokens).tolist()


def num_tokens(tokens: bytes) -> int:
    """Looks at none of them."""
    return len(tokens) // _BYTES
