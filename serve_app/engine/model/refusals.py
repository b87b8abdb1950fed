"""Refuses in the engine what `representation.architecture` refuses. Judges nothing itself."""

from collections.abc import Iterator
from contextlib import contextmanager

from representation.architecture.errors import Unservable
from serve_app.errors import Unsupported


@contextmanager
def as_unsupported() -> Iterator[None]:
    """Turns `Unservable` inside the block into `Unsupported`, with the same words."""
    try:
        yield
    except Unservable as error:
        raise Unsupported(str(error)) from error
