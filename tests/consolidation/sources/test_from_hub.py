"""The commands with models named on the hub, as users run them, without Ray."""

from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants

from consolidation.release import Registry
from serve_app.cli.main import run
from tests.consolidation.sources.conftest import NAME
from tests.support.hub_server import Hub

pytestmark = pytest.mark.usefixtures("without_ray")


def test_a_release_and_its_recipe_name_repository_and_commit_and_are_made_again_offline(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--family=f", f"--registry={tmp_path / 'r'}"]
    assert run(["consolidate", *place, f"--model=a={NAME}"]) == 0
    assert "fetch" in capsys.readouterr().err
    commit = hub.repositories[NAME].refs["main"]
    [release] = Registry(str(tmp_path / "r"), "f").releases()
    manifest = Registry(str(tmp_path / "r"), "f").read_manifest(release.id)
    assert manifest.models["a"].source.name == f"{NAME}@{commit}"
    beside = tmp_path / "r" / "f" / "releases" / release.id / "recipe.yaml"
    assert yaml.safe_load(beside.read_text())["models"] == {"a": f"hf://{NAME}@{commit}"}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run(["consolidate", str(beside), f"--registry={tmp_path / 'again'}"]) == 0
    [again] = Registry(str(tmp_path / "again"), "f").releases()
    assert again.id == release.id
    capsys.readouterr()
    assert run(["inspect", *place]) == 0
    assert f"a from {NAME}@{commit}\n" in capsys.readouterr().out


def test_what_is_wrong_with_a_name_is_one_line_and_nothing_is_written(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--family=f", f"--registry={tmp_path / 'r'}"]
    for command in ("consolidate", "plan-memory"):
        more = ["--consolidation"] if command == "plan-memory" else []
        (tmp_path / "r").mkdir(exist_ok=True)
        assert run([command, *place, *more, "--model=a=org/none"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: 'org/none' is not a directory, and ")
        assert error.count("\n") == 1
        assert list((tmp_path / "r").iterdir()) == []


def test_plan_memory_reads_a_name_on_the_hub(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r").mkdir()
    place = ["--family=f", f"--registry={tmp_path / 'r'}", "--consolidation"]
    assert run(["plan-memory", *place, f"--model=a={NAME}", f"--base={NAME}@main"]) == 0
    assert "calibrate" in capsys.readouterr().out
