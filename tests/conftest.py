"""What holds for all tests: what imports leave is not looked through, and one thread computes."""

import gc
import os
from collections.abc import Iterator

import pytest

# Before torch is imported, here and in processes that tests start. Tiny models gain nothing from a
# second thread, which waits for work by spinning. Tests of several threads say how many.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def imports_are_not_looked_through() -> Iterator[None]:
    """Garbage is collected often: half a second with all of torch and transformers."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
