"""A recipe file says what options say, is overridden by them, and is refused where it is wrong."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from consolidation.recipe import Recipe
from consolidation.sources.local_sources import local_source
from serve_app.cli.errors import WrongUse
from serve_app.cli.main import run
from serve_app.cli.recipes.carried_out import recipe_text
from serve_app.cli.recipes.recipe_file import PARAMETERS, RecipeFile, read_recipe_file
from tests.cli.recipes.conftest import Understood
from tests.cli.tree import TREE

OF_A_RUN = {"recipe", "recipe_schema", "normal_priority", "dry_run", "as_json"}
"""What is no part of a recipe: it changes how a run goes or what it prints, not the release."""
SIZES = {"expert_budget": 0.75, "target_kl": 0.01, "device_memory": "24GiB"}
ALL_BUT_SIZES = """
family: chat
registry: registry
channel: next
models:
  math: math
  no: ./step=100+a@b
base: base
extend: "0123"
remove: [old]
max_formats: 4
weights: {math: 2}
exact: [no]
noise_floor: true
calibration:
  - all.txt
  - own=1.txt
  - math: math.txt
tasks: {math: math.jsonl}
texts: {math: math.txt}
max_kl: 1e-1
max_accuracy_drop: 0.01
max_perplexity_rise: 0.02
min_retained: 0.9
device: auto
"""


def write(place: Path, text: str) -> Path:
    path = place / "recipe.yaml"
    path.write_text(text)
    return path


def as_flags(place: Path) -> list[str]:
    text = f"""--family chat --registry {place}/registry --channel next
        --model math={place}/math --model no={place}/step=100+a@b --base {place}/base
        --extend 0123 --remove old --max-formats 4 --weight math=2 --exact no --noise-floor
        --calibration {place}/all.txt --calibration {place}/own=1.txt
        --calibration math={place}/math.txt --task math={place}/math.jsonl
        --text math={place}/math.txt --max-kl 0.1 --max-accuracy-drop 0.01
        --max-perplexity-rise 0.02 --min-retained 0.9 --device auto"""
    return text.split()


def test_every_option_is_a_key_of_the_file_or_belongs_to_a_run() -> None:
    of_file = {PARAMETERS.get(key, key) for key in RecipeFile.model_fields}
    assert of_file | OF_A_RUN == {one.name for one in TREE[("consolidate",)].params}
    assert not of_file & OF_A_RUN


@pytest.mark.parametrize("size", SIZES)
def test_a_file_says_what_options_say(size: str, place: Path, understood: Understood) -> None:
    path = write(place, f"{ALL_BUT_SIZES}{size}: {SIZES[size]}\n")
    option = f"--{size.replace('_', '-')}"
    recipe = understood(path)
    assert recipe == understood(*as_flags(place), option, str(SIZES[size]))
    assert recipe.models["no"] == local_source(place / "step=100+a@b")


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_json_is_read_too(indent: int | str | None, place: Path, understood: Understood) -> None:
    models = {"math": "math"}
    content = {"family": "f", "registry": "r", "models": models, "base": None, "max_kl": 1}
    recipe = understood(write(place, json.dumps(content, indent=indent)))
    assert (recipe.limits.max_kl, recipe.base, dict(recipe.models)) == (
        1.0,
        None,
        {"math": local_source(place / "math")},
    )


def test_options_replace_values_of_the_file_lists_as_a_whole(
    place: Path, understood: Understood
) -> None:
    path = write(place, f"{ALL_BUT_SIZES}expert_budget: 0.75\n")
    whole = understood(path)
    changed = understood(path, "--max-kl", "0.5", "--calibration", place / "all.txt")
    assert changed == replace(
        whole,
        limits=replace(whole.limits, max_kl=0.5),
        calibration=((None, place / "all.txt"),),
        as_file=changed.as_file,
    )


def test_an_option_for_the_size_replaces_another_size_of_the_file(
    place: Path, understood: Understood
) -> None:
    path = write(place, f"{ALL_BUT_SIZES}expert_budget: 0.75\n")
    recipe = understood(path, "--target-kl", "0.2")
    assert (recipe.expert_budget, recipe.target_kl) == (None, 0.2)


@pytest.mark.parametrize("size", SIZES)
def test_a_recipe_as_it_was_carried_out_can_be_carried_out_again(
    size: str, place: Path, understood: Understood, tmp_path_factory: pytest.TempPathFactory
) -> None:
    recipe = understood(write(place, f"{ALL_BUT_SIZES}{size}: {SIZES[size]}\n"))
    again = write(tmp_path_factory.mktemp("elsewhere"), recipe.as_file or "")
    assert understood(again) == recipe
    assert read_recipe_file(again).model_fields_set == {
        *RecipeFile.model_fields,
    } - (SIZES.keys() - {size})


def test_a_recipe_as_it_was_carried_out_holds_no_login() -> None:
    address = "s3://key:secret@bucket/registry?token=secret"
    text = recipe_text(Recipe("f", address, {"a": local_source(Path("/a"))}), None)
    assert "registry: s3://bucket/registry\n" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", ["it is empty"]),
        ("# nothing\n", ["it is empty"]),
        ("- a\n- b\n", ["line 1", "not a map"]),
        ("just text", ["line 1", "not a map"]),
        ("family: [a", ["line 1", "neither YAML nor JSON"]),
        ("family: f\nbudget: 3\n", ["line 2: budget:", "no such key", "expert_budget"]),
        ("models:\n  a: x\n  b: x\n  a: y\n", ["line 4: models.a is given twice"]),
        ("models: [a]", ["models", "not a map"]),
        ("models:\n  a:\n", ["line 2: models.a: it has no value"]),
        ("models: {a/b: x}", ["models.a/b", "is not a name"]),
        ("base: [x]", ["base", "not a single value"]),
        ("base: ''", ["base", "no source"]),
        ("models: {a: org/name@}", ["models.a", "'org/name@'", "not a branch"]),
        ("base: ./base@v1", ["line 1: base: './base@v1'", "no revisions"]),
        ("family: f\nexpert_budget: lots\n", ["line 2: expert_budget: 'lots' is not a number"]),
        ("device_memory: 24 apples", ["24 apples"]),
        ("device: gpu", ["line 1: device: 'gpu' is not a device", "cuda:1"]),
        ("max_formats: 1.5", ["max_formats: '1.5' is not a whole number"]),
        ("noise_floor: maybe", ["'maybe' is neither true nor false"]),
        ("calibration: x.txt", ["calibration", "not a list"]),
        ("calibration: [{a: x, b: y}]", ["calibration.0", "neither FILE nor MODEL: FILE"]),
        ("registry: nosuch://x", ["registry", "nosuch"]),
        ("&a [*a]", ["nested"]),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_name_and_the_key(
    text: str, named: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(place, text)
    assert run(["consolidate", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    for words in (str(path), *named):
        assert words in captured.err


@pytest.mark.parametrize("name", ["missing.yaml", ".", "binary"])
def test_what_is_no_text_file_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert run(["consolidate", str(tmp_path / name)]) == 2
    assert f"recipe {tmp_path / name}: " in capsys.readouterr().err


def test_errors_about_values_of_the_file_name_it(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(place, "family: f\nregistry: r\nmodels: {a: nowhere}\n")
    assert run(["consolidate", str(path)]) == 2
    words = f"--model in {path}: model 'a': '{place}/nowhere' is not a directory"
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: {a: math}\nexpert_budget: 1\ntarget_kl: 0.1\n", "each set the size"),
        ("remove: [old]\n", "--remove old needs --extend RELEASE"),
        ("models: {}\n", "nothing to do: give --model"),
        ("models: {a: math}\nmax_accuracy_drop: 0.1\n", "--max-accuracy-drop needs --task"),
        ("models: {a: math}\nmax_perplexity_rise: 0.1\n", "--max-perplexity-rise needs --text"),
        ("models: {a: math}\nmin_retained: 0.9\n", "--min-retained needs --base"),
        ("models: {a: math}\nweights: {b: 2}\n", "weight is given for 'b'"),
        ("models: {a: math}\nexact: [b]\n", "exactness is given for 'b'"),
        ("models: {a: math}\ncalibration: [{b: all.txt}]\n", "text is given for 'b'"),
    ],
)
def test_errors_about_values_that_do_not_go_together_name_the_file(
    text: str, words: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(place, f"family: f\nregistry: r\n{text}")
    assert run(["consolidate", str(path)]) == 2
    said = capsys.readouterr().err
    assert f"recipe {path}: " in said.replace("\n", "")
    assert words in said


def test_every_switch_of_the_file_can_be_turned_on_and_off_by_options(
    place: Path, understood: Understood
) -> None:
    found = {
        str(one.name): one
        for one in TREE[("consolidate",)].params
        if one.name not in OF_A_RUN and getattr(one, "is_flag", False)
    }
    assert list(found) == ["noise_floor"]
    for name, option in found.items():
        for value, flags in ((True, option.opts), (False, option.secondary_opts)):
            assert flags, f"no option turns {name} {'on' if value else 'off'}"
            path = write(place, f"{ALL_BUT_SIZES.replace('true', str(not value).lower())}")
            assert getattr(understood(path), name) is not value
            assert getattr(understood(path, flags[0]), name) is value


WRONG_BY_SCHEMA: list[dict[str, object]] = [
    {"budget": 1},
    {"max_kl": "much"},
    {"max_kl": -1},
    {"models": []},
    {"models": {"a b": "./a"}},
    {"models": {"a": ""}},
    {"weights": {"a": 0}},
    {"calibration": [{}]},
    {"calibration": "a.txt"},
    {"family": "-"},
    {"registry": ""},
    {"device": "tpu"},
    {"device_memory": "24 apples"},
    {"device_memory": -1},
    {"max_formats": 0},
    {"exact": "a"},
]


def test_the_schema_takes_what_is_read_and_refuses_what_is_not(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["consolidate", "--recipe-schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema, yaml = pytest.importorskip("jsonschema"), pytest.importorskip("yaml")
    check = jsonschema.Draft202012Validator(schema)
    content = {**yaml.safe_load(ALL_BUT_SIZES.replace("no:", "b:").replace("1e-1", "0.1")), **SIZES}
    assert list(check.iter_errors({**content, "exact": ["b"]})) == []
    for wrong in WRONG_BY_SCHEMA:
        assert list(check.iter_errors(wrong)), wrong
        path = write(tmp_path, json.dumps(wrong))
        assert run(["consolidate", str(path)]) == 2
        assert f"{path}: line 1: {next(iter(wrong))}" in capsys.readouterr().err.replace("\n", "")
    helps = {one.name: one.help for one in TREE[("consolidate",)].params}
    for key, found in schema["properties"].items():
        assert found["description"] == helps[PARAMETERS.get(key, key)]


def test_a_card_is_kept_as_its_kind(
    place: Path, understood: Understood, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 40, 1 << 40))
    recipe = understood(write(place, ALL_BUT_SIZES), "--device", "cuda:1")
    assert recipe.device == torch.device("cuda")
    assert "device: cuda\n" in (recipe.as_file or "")


@pytest.mark.parametrize("text", ["[" * 100_000, "models: " + "{a: " * 3000])
def test_a_file_too_deep_to_be_parsed_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(WrongUse, match=r"r\.yaml.*nested too deep"):
        read_recipe_file(tmp_path / "r.yaml")
