from pathlib import Path

import pytest

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.errors import Refused
from consolidation.evaluation.baselines.catalogue import (
    NAMES,
    check_names,
    make_baselines,
    possible_names,
)
from consolidation.evaluation.baselines.subjects import Subjects
from consolidation.statistics.text import read_calibration
from tests.support.checkpoints import write_checkpoint


def test_every_baseline_is_called_what_it_is_asked_for_by(subjects: Subjects) -> None:
    made = make_baselines(NAMES, subjects, read_calibration(()))
    assert tuple(method.name for method in made) == NAMES
    assert len(set(NAMES)) == len(NAMES)


def test_a_baseline_named_twice_is_made_once(subjects: Subjects) -> None:
    made = make_baselines(["ties", "average", "ties"], subjects, ())
    assert [method.name for method in made] == ["ties", "average"]


def test_an_unknown_baseline_is_refused_with_those_there_are() -> None:
    with pytest.raises(Refused, match=r"no baseline 'tyes'; choose from average, base-experts, "):
        check_names(["average", "tyes"], has_base=True)


def test_without_a_base_what_needs_it_is_refused_and_the_rest_possible(subjects: Subjects) -> None:
    with pytest.raises(Refused, match="'emr' needs the checkpoint that the models were fine-tuned"):
        make_baselines(["average", "emr"], Subjects(subjects.models, None), ())
    possible = possible_names(has_base=False)
    check_names(possible, has_base=False)
    assert {"average", "round-robin", "hc-smoe", "private-4-bit"} <= set(possible)
    assert "ties" not in possible


def test_a_base_of_another_family_is_refused(subjects: Subjects, tmp_path: Path) -> None:
    other = open_checkpoint(write_checkpoint(tmp_path / "other", "mixtral", intermediate_size=40))
    with pytest.raises(Refused, match="intermediate_size: 24 in 'frozen', 40 in 'base other'"):
        Subjects(subjects.models, other)
