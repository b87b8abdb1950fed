"""What a run finds that asks for another size of the same models."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from consolidation.pipeline import Progress
from consolidation.release.storage import LocalStorage
from consolidation.run.kept_results import DIRECTORY, KEPT_FOR, KeptResults
from tests.consolidation.families import write_family
from tests.consolidation.running import Paths, consolidated, files, recipe_of

NOW = datetime(2026, 11, 29, tzinfo=UTC)
OF_STUDY = {"noise floor", "scan", "origins", "calibrate", "compare"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    family = write_family(tmp_path_factory.mktemp("family"), num_hidden_layers=1)
    return {name: family[name] for name in ("one", "two")}


def text(place: Path) -> tuple[tuple[str | None, Path], ...]:
    path = place / "text.txt"
    path.write_text("To be, or not to be, that is the question. " * 40)
    return ((None, path),)


def test_another_size_is_planned_from_what_is_there_and_a_dry_run_writes_nothing(
    models: Paths, tmp_path: Path
) -> None:
    calibration = text(tmp_path)
    first = recipe_of(tmp_path / "r", models, 1.5, calibration=calibration)
    consolidated(first)
    before = files(tmp_path / "r")
    for budget, dry_run in ((1.0, True), (1.0, False)):
        found: dict[str, Progress] = {}
        done = consolidated(
            recipe_of(tmp_path / "r", models, budget, calibration=calibration),
            progress=lambda now, found=found: found.setdefault(now.stage, now),
            dry_run=dry_run,
        )
        assert done.plan.expert_bytes_after <= budget * done.plan.expert_bytes_one_model
        studied = {stage: now for stage, now in found.items() if stage in OF_STUDY}
        assert studied.keys() == OF_STUDY
        assert all(now.found == now.total for now in studied.values())
        if dry_run:
            assert files(tmp_path / "r") == before


def test_results_are_kept_for_a_week_after_their_last_use(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    KeptResults(storage, "a", NOW).put("key", [1])
    KeptResults(storage, "b", NOW + KEPT_FOR / 2).put("key", [2])
    assert KeptResults(storage, "a", NOW, is_read_only=True).get("key") == [1]
    KeptResults(storage, "b", NOW + KEPT_FOR + timedelta(seconds=1))
    assert storage.names(DIRECTORY) == ["b"]
    assert KeptResults(storage, "b", NOW, is_read_only=True).get("key") == [2]


def test_a_reader_writes_nothing(tmp_path: Path) -> None:
    found = KeptResults(LocalStorage(tmp_path), "a", NOW, is_read_only=True)
    found.put("key", [1])
    assert found.get("key") is None
    assert list(tmp_path.iterdir()) == []
