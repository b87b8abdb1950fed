"""Models with recurrent mixers go from checkpoints to answers."""

from pathlib import Path
from typing import Any

import pytest

from consolidation.release import Registry, ReleaseReader
from tests.consolidation.families import write_family
from tests.consolidation.running import manifest_of, pick, run
from tests.engine.running import answer, assert_golden, engine_of, greedy_requests
from tests.support.checkpoints import loaded


@pytest.mark.parametrize("architecture", ["lfm2_moe", "jamba"])
def test_a_release_of_hybrids_answers_as_their_own_classes_do(
    architecture: str, tmp_path: Path
) -> None:
    paths = pick(write_family(tmp_path / "f", architecture), "one", "two")
    manifest = manifest_of(run(tmp_path / "r", paths, channel="stable"))
    models: dict[str, Any] = {name: loaded(path).eval() for name, path in paths.items()}
    engine = engine_of(
        ReleaseReader(Registry(str(tmp_path / "r"), "fam"), manifest.id), step_tokens=40
    )
    requests = greedy_requests(models, [5, 17, 30], max_tokens=12, release=manifest.id)
    assert_golden(models, requests, answer(engine, requests))
    engine.close()
