"""`plan-memory --consolidation` plans for the models of a recipe."""

from pathlib import Path

import pytest

from serve_app.cli.main import run
from tests.support.checkpoints import write_checkpoint


def test_a_recipe_is_planned_for_as_its_options_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(tmp_path / "one", "mixtral", 0, num_hidden_layers=1)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "family: f\nregistry: .\nmodels: {one: one}\nbase: one\ndevice_memory: 24GiB\n"
    )
    one = str(tmp_path / "one")
    options = ["--family=f", f"--registry={tmp_path}", f"--model=one={one}", f"--base={one}"]
    printed = []
    for arguments in (options, [str(recipe)]):
        assert run(["plan-memory", "--consolidation", *arguments]) == 0
        lines = capsys.readouterr().out.splitlines()
        printed.append([line for line in lines if not line.startswith("free")])
    assert printed[0] == printed[1]
    assert any(line.startswith("calibrate") for line in printed[0])


def test_what_is_wrong_with_a_recipe_to_plan_for_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("family: f\nregistry: .\nmodels: {one: ./none}\n")
    assert run(["plan-memory", "--consolidation", str(recipe)]) == 2
    assert f"--model in {recipe}" in capsys.readouterr().err
    assert run(["plan-memory", str(recipe), "--base=org/x"]) == 2
    error = capsys.readouterr().err
    assert error == "error: RECIPE, --model and --base are for --consolidation\n"
