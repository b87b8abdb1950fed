"""The family that tests of the pipeline share."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.consolidation.families import write_family


@pytest.fixture(scope="session", autouse=True)
def imports_are_not_looked_through() -> Iterator[None]:
    """Every model that is loaded has garbage collected first: half a second with all of torch."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_family(tmp_path_factory.mktemp("family"), num_hidden_layers=2)
