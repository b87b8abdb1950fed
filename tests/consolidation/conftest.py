"""The family that tests of the pipeline share."""

from pathlib import Path

import pytest

from tests.consolidation.families import write_family


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_family(tmp_path_factory.mktemp("family"), num_hidden_layers=2)
