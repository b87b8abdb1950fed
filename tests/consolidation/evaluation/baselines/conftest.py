"""What baselines are tested on: checkpoints of the family that tests of the pipeline share."""

from pathlib import Path

import pytest

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.evaluation.baselines.subjects import Subjects
from tests.consolidation.families import write_family


@pytest.fixture(scope="session")
def subjects(family: dict[str, Path]) -> Subjects:
    return subjects_of(family)


@pytest.fixture(scope="session")
def gpt_oss(tmp_path_factory: pytest.TempPathFactory) -> Subjects:
    """A family with biases, whose matrices have their input features first."""
    return subjects_of(write_family(tmp_path_factory.mktemp("gpt_oss"), "gpt_oss"))


def subjects_of(directories: dict[str, Path]) -> Subjects:
    checkpoints = {name: open_checkpoint(path) for name, path in directories.items()}
    return Subjects(checkpoints, checkpoints.pop("base"))
