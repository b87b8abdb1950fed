"""How many cores torch's operations use in the calling thread. Decides nothing.

An operation on two cores waits until both have arrived. A small one takes ten times as long as on
one core (75 µs instead of 5 if OpenMP's helper is asleep).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def on_cores(num: int) -> Iterator[None]:
    """Operations use this many cores inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)
