"""Stages on a device that is not the CPU. A device in Python stands in for CUDA."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from consolidation.release import Manifest, Registry
from tests.consolidation import on_card
from tests.consolidation.families import write_family
from tests.consolidation.running import manifest_of, run


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("card")
    write_family(root, num_hidden_layers=1)
    (root / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 12)
    return root


@pytest.fixture(scope="module")
def found(directory: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", on_card.__name__, str(directory)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def manifest(directory: Path, found: dict[str, Any]) -> Manifest:
    return Registry(str(directory / "registry"), "fam").read_manifest(found["release"])


def test_every_stage_computes_on_the_device_and_nothing_on_the_host(found: dict[str, Any]) -> None:
    assert found["findings"] == []
    assert 0 < found["kl"] < 1


def test_a_release_says_on_what_kind_of_device_it_was_made(manifest: Manifest) -> None:
    assert manifest.provenance["device"] == "card"


def test_a_device_makes_the_release_of_the_cpu_but_for_rounding(
    manifest: Manifest, directory: Path
) -> None:
    models = {name: directory / name for name in ("one", "two")}
    statistics = directory / "registry" / "fam" / "work" / "statistics"
    assert len(list(statistics.iterdir())) == 2
    on_cpu = manifest_of(run(directory / "registry", models, **on_card.wishes(directory)))
    assert len(list(statistics.iterdir())) == 4  # those of a device are not used on another
    assert "device" not in on_cpu.provenance
    assert manifest.models["one"].expert_map == on_cpu.models["one"].expert_map
    for one, other in zip(manifest.layers, on_cpu.layers, strict=True):
        assert [part.format for part in one.slots] == [part.format for part in other.slots]
        assert [part.format for part in one.residuals] == [part.format for part in other.residuals]
    for name in models:
        kl = on_cpu.quality[name].kl
        assert manifest.quality[name].kl == pytest.approx(kl, rel=0.02, abs=1e-7)
