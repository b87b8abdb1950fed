"""`expertpool evaluate` on small releases written by hand, in this process."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from consolidation.checkpoints.checkpoint import Checkpoint, open_checkpoint
from consolidation.release import Registry
from serve_app.cli.main import run
from tests.consolidation.families import write_family
from tests.support.releases import publish

Call = Callable[..., tuple[int, str, str]]
TEXT = "Nobody minds the dog, and the dog minds nobody. " * 4


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def checkpoints(directories: dict[str, Path]) -> dict[str, Checkpoint]:
    return {name: open_checkpoint(directories[name]) for name in ("one", "two")}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("files")
    text, task = directory / "text.txt", directory / "task.jsonl"
    text.write_text(TEXT)
    pairs = [{"prompt": word, "completion": " dog"} for word in TEXT.split()[:5]]
    task.write_text("\n".join(json.dumps(pair) for pair in pairs))
    return {"text": text, "task": task}


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    (tmp_path / "registry").mkdir()

    def call(*arguments: str) -> tuple[int, str, str]:
        place = ["--family", "fam", "--registry", str(tmp_path / "registry")]
        code = run(["evaluate", *place, *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def registry(tmp_path: Path, call: Call) -> Registry:
    return Registry(str(tmp_path / "registry"), "fam")


@pytest.fixture
def exact(registry: Registry, checkpoints: dict[str, Checkpoint]) -> str:
    return publish(registry, checkpoints, checkpoints, {"one": 0.5})


def originals(directories: dict[str, Path], *names: str) -> list[str]:
    return [f"--original={name}={directories[name]}" for name in names]


def test_json_holds_every_measure_of_every_release(
    call: Call,
    registry: Registry,
    exact: str,
    checkpoints: dict[str, Checkpoint],
    directories: dict[str, Path],
    files: dict[str, Path],
) -> None:
    swapped = publish(registry, checkpoints, {"one": checkpoints["two"], "two": checkpoints["two"]})
    data = [f"--task=one={files['task']}", f"--text=two={files['text']}"]
    arguments = [exact, swapped, *data, *originals(directories, "one", "two"), "--json"]
    code, out, err = call(*arguments, "--items", "3", "--windows", "1")
    assert code == 0, err
    told = json.loads(out)
    assert told["releases"] == [exact, swapped]
    first, second = told["methods"]
    assert first["method"] == f"release {exact}"
    assert first["bytes_of_one_model"] == pytest.approx(2, rel=0.2)
    assert first["mean_kl"] == 0
    assert first["models"]["one"] == {
        "kl": 0.0,
        "kl_99": 0.0,
        "kl_999": 0.0,
        "rms_dp": 0.0,
        "kl_base": None,
        "retained": None,
        "perplexity": None,
        "perplexity_original": None,
        "accuracy": first["models"]["one"]["accuracy_original"],
        "accuracy_original": first["models"]["one"]["accuracy_original"],
        "token_agreement": 1.0,
        "router_agreement": [1.0, 1.0, 1.0],
        "tokens": 3,
        "predicted_kl": 0.5,
    }
    assert first["models"]["two"]["predicted_kl"] is None
    assert second["models"]["one"]["kl"] > 0
    assert second["models"]["two"]["kl"] == 0
    assert second["mean_kl"] == second["models"]["one"]["kl"] / 2
    assert call(*arguments, "--items", "3", "--windows", "1")[1] == out


def test_a_recipe_says_what_its_models_were_made_from_and_measured_on(
    call: Call,
    exact: str,
    directories: dict[str, Path],
    files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    originals = [f"--original={name}={directories[name]}" for name in ("one", "two")]
    wanted = call(exact, *originals, f"--text=one={files['text']}", "--json")
    recipe = tmp_path / "recipe.yaml"
    text = f"""
        family: fam
        registry: registry
        models: {{one: {directories["one"]}, two: {directories["two"]}}}
        texts: {{one: {files["text"]}}}
        calibration: [nothing.txt]
        expert_budget: 1
    """
    recipe.write_text(text)
    assert run(["evaluate", exact, str(recipe), "--json"]) == wanted[0] == 0
    assert json.loads(capsys.readouterr().out) == json.loads(wanted[1])
    assert run(["evaluate", str(recipe), str(recipe)]) == 2
    assert "are recipes: give only one" in capsys.readouterr().err
    recipe.write_text(text.replace(str(files["text"]), "none.txt"))
    assert run(["evaluate", str(recipe)]) == 2
    assert f"Invalid value for --text in {recipe}: model 'one'" in capsys.readouterr().err


def test_tables_name_the_release_its_models_and_the_baselines(
    call: Call, exact: str, directories: dict[str, Path], files: dict[str, Path]
) -> None:
    code, out, err = call(
        f"--text=one={files['text']}",
        *originals(directories, "one", "two"),
        f"--base={directories['base']}",
        "--baseline=average",
        "--baseline=base-experts",
    )
    assert code == 0, err
    assert f"release {exact}: " in out
    assert re.search(r"^model +retained +KL of base .*\none +100.00 % ", out, re.MULTILINE)
    assert [line.split()[0] for line in out.splitlines() if line and line[0].islower()] == [
        "release",
        "model",
        "one",
        "model",
        "one",
        "method",
        "average",
        "base-experts",
        "release",
    ]


def test_a_report_is_written_where_it_is_wanted(
    call: Call, exact: str, directories: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    code, _, err = call(
        f"--text=one={files['text']}",
        *originals(directories, "one", "two"),
        "--baseline=average",
        f"--report={tmp_path / 'report.html'}",
    )
    assert code == 0, err
    page = (tmp_path / "report.html").read_text()
    assert exact in page
    assert "average" in page


def test_every_wrong_input_is_named_before_anything_is_loaded(
    call: Call,
    exact: str,
    directories: dict[str, Path],
    files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(*_: object) -> None:
        pytest.fail("a model was read")

    monkeypatch.setattr("consolidation.evaluation.evaluate.StreamedModel", read)
    empty, broken = tmp_path / "empty.jsonl", tmp_path / "broken.jsonl"
    empty.write_text("")
    broken.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": 1}\n')
    both = originals(directories, "one", "two")
    text = f"--text=one={files['text']}"
    for arguments, said in (
        ([*both], "nothing to measure"),
        ([f"--text=three={files['text']}", *both], f"release {exact} has no model 'three'"),
        ([text, *both, f"--original=three={directories['two']}"], "no model 'three'"),
        ([text, *originals(directories, "two")], "model 'one' has a task or text, but its orig"),
        ([f"--task=one={empty}", *both], f"{empty} is empty"),
        ([f"--task=one={broken}", *both], f"{broken}, line 2: not an object"),
        ([f"--task=one={files['text']}", *both], "is not a .jsonl file"),
        ([f"--text=one={tmp_path / 'no.txt'}", *both], "no.txt' is not a file"),
        ([text, text, *both], "model 'one' is given twice"),
        (["--text=one", *both], "'one' is not NAME=FILE"),
        ([text, *both, "--baseline=magic"], "no baseline 'magic'"),
        ([text, *both, "--baseline=ties"], "baseline 'ties' needs the checkpoint"),
        ([text, *originals(directories, "one"), "--baseline=average"], "originals of 'two' are"),
        (["0123", text, *both], "0123"),
        ([text, f"--original=one={directories['two']}"], "was not made from"),
        ([text, *both, "--items", "0"], "items"),
        ([text, *both, f"--report={tmp_path / 'no' / 'x.html'}"], "there is no directory"),
    ):
        code, out, err = call(*arguments)
        assert (code, out) == (2, ""), (arguments, out, err)
        assert said in " ".join(err.split()), (arguments, err)
