"""How many cores torch's operations use, in the thread that calls. Decides nothing.

An operation on two cores waits until both have come: for a small one that takes ten times as long
as to do it alone (75 µs instead of 5 where OpenMP's helper has gone to sleep).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def on_cores(num: int) -> Iterator[None]:
    """Operations use so many for as long as it lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)
