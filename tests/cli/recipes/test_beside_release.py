"""The recipe that lies beside a release, made and used as users do it, without Ray."""

from pathlib import Path

import pytest

from consolidation.release import Registry
from serve_app.cli.main import run
from tests.support.checkpoints import write_checkpoint
from tests.support.here import Here


def test_the_recipe_beside_a_release_makes_the_same_release_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("serve_app.cli.consolidate.LazyRay", Here)
    write_checkpoint(tmp_path / "one", "mixtral", 0)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("family: tiny\nregistry: r\nmodels: {one: one}\n")
    assert run(["consolidate", str(recipe), "--channel", "next"]) == 0
    registry = Registry(str(tmp_path / "r"), "tiny")
    [release] = registry.releases()
    assert release.channels == ("next",)
    beside = tmp_path / "r" / "tiny" / "releases" / release.id / "recipe.yaml"
    assert "channel: next" in beside.read_text()
    assert run(["consolidate", str(beside), f"--registry={tmp_path / 'again'}"]) == 0
    [again] = Registry(str(tmp_path / "again"), "tiny").releases()
    assert (again.id, again.channels) == (release.id, ("next",))
    assert "Traceback" not in capsys.readouterr().err
