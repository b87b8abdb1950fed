"""The recipe that lies beside a release, made and used as users do it, without Ray."""

from pathlib import Path
from typing import Any

import pytest

from consolidation.release import Registry
from consolidation.run.executor import LocalExecutor
from serve_app.cli.main import run
from tests.support.checkpoints import write_checkpoint


class _Here(LocalExecutor):
    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> "_Here":
        return self

    def __exit__(self, *_: object) -> None: ...


def test_the_recipe_beside_a_release_makes_the_same_release_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("serve_app.cli.consolidate.LazyRay", _Here)
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
