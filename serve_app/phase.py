"""A part of something that takes long: said when it begins, and again while it lasts."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

SILENCE_S = 5.0
"""Half of the longest silence: a busy machine is late."""


@contextmanager
def phase(
    what: str, say: Callable[[str], None], *, every_s: float = SILENCE_S
) -> Iterator[Callable[[], float]]:
    """Says `what`, and how long it has taken whenever `every_s` have passed. Yields a function that
    gives the seconds since it began.   say: gets a line; it is called from a thread, too.
    """
    begun = time.monotonic()
    ended = Event()

    def so_far() -> float:
        return time.monotonic() - begun

    def tell() -> None:
        while not ended.wait(every_s):
            say(f"{what}: {so_far():.0f} s so far")

    say(what)
    Thread(target=tell, name=f"expertpool-{what}", daemon=True).start()
    try:
        yield so_far
    finally:
        ended.set()
