"""What `representation.architecture` refuses is refused here too. Judges nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

from representation.architecture.errors import Unservable
from serve_app.errors import Unsupported


@contextmanager
def as_unsupported() -> Iterator[None]:
    """Around what asks about an architecture: `Unservable` becomes `Unsupported`, in its words."""
    try:
        yield
    except Unservable as error:
        raise Unsupported(str(error)) from error
