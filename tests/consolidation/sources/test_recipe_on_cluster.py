"""`k8s render --recipe`: the set brings the recipe, and a pod with room for its models."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.cli.main import run
from serve_app.errors import ConfigError
from serve_app.k8s.quantity import number
from serve_app.k8s.recipe_pod import FILE, NAME, config_map, pod_disk, pod_memory
from tests.consolidation.sources.conftest import NAME as REPOSITORY
from tests.k8s.support import judged, of_kind
from tests.support.hub_server import Hub

GIB = 1 << 30


def render(recipe: Path, *words: str) -> int:
    target = [
        "--registry=s3://acme/registry",
        "--family=chat",
        f"--output={recipe.parent}/set.yaml",
    ]
    return run(["k8s", "render", *target, f"--recipe={recipe}", *words])


def written(recipe: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((recipe.parent / "set.yaml").read_text()))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"models: {{a: {REPOSITORY}, b: {REPOSITORY}@main}}\n"
        f"base: {REPOSITORY}\n"
        "expert_budget: 0.75\n"
        "calibration: [words.txt, a: own.jsonl]\n"
    )
    (tmp_path / "words.txt").write_text("Some words, és még néhány.\n")
    (tmp_path / "own.jsonl").write_text('{"text": "a"}\n')
    return file


def test_recipe_and_texts_come_along_and_the_pod_has_room_for_its_models(
    hub: Hub, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert render(recipe) == 0
    told = capsys.readouterr().err
    assert "configmap" not in told
    objects = written(recipe)
    assert judged(objects) == []
    [brought] = [one for one in objects if one["kind"] == "ConfigMap"]
    assert brought["metadata"]["name"] == NAME
    names = (FILE, "words.txt", "own.jsonl")
    assert brought["data"] == {name: (recipe.parent / name).read_text() for name in names}
    assert objects.index(brought) < objects.index(of_kind(objects, "RayJob"))
    head = of_kind(objects, "RayJob")["spec"]["rayClusterSpec"]["headGroupSpec"]
    [container] = head["template"]["spec"]["containers"]
    store = int(head["rayStartParams"]["object-store-memory"])
    memory = number(container["resources"]["limits"]["memory"])
    assert memory > 2 * GIB + store
    assert memory < 32 * GIB
    assert [name for name in hub.fetched() if name.startswith("model-0")] == []


def test_what_is_said_goes_before_what_the_recipe_needs(hub: Hub, recipe: Path) -> None:
    sizes = ["--set=consolidation_memory=96GiB", "--set=consolidation_disk=7GiB"]
    assert render(recipe, *sizes) == 0
    head = of_kind(written(recipe), "RayJob")["spec"]["rayClusterSpec"]["headGroupSpec"]
    [container] = head["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["memory"] == "96Gi"
    [cache] = [one for one in head["template"]["spec"]["volumes"] if one["name"] == "cache"]
    assert cache["emptyDir"]["sizeLimit"] == "7Gi"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: {a: sharded}\n", "is a directory of this machine, which no pod has"),
        (f"models: {{a: {REPOSITORY}}}\ncalibration: [in/words.txt]\n", "files beside it"),
        (f"models: {{a: {REPOSITORY}}}\ntexts: {{a: gone.txt}}\n", "gone.txt: No such file"),
        (f"models: {{a: {REPOSITORY}}}\ntasks: {{a: bytes.jsonl}}\n", "is no text in UTF-8"),
        ("models: {a: org/none}\n", "'org/none' is not a directory, and "),
        ("modles: {}\n", "modles"),
    ],
)
def test_what_no_pod_can_read_is_refused_before_anything_is_written(
    hub: Hub,
    sharded: Path,
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    words: str,
) -> None:
    recipe.write_text(text.replace("sharded", str(sharded)))
    (recipe.parent / "in").mkdir()
    (recipe.parent / "bytes.jsonl").write_bytes(b"\xff\xfe")
    (recipe.parent / "in" / "words.txt").write_text("words")
    assert render(recipe) == 2
    assert words in capsys.readouterr().err
    assert not (recipe.parent / "set.yaml").exists()
    assert hub.fetched() == []


def test_a_pod_has_more_than_a_stage_holds_and_more_disk_than_is_fetched() -> None:
    assert pod_memory(8 * GIB, GIB) == 13 * GIB
    assert pod_memory(8 * GIB + 1, GIB) == 14 * GIB
    assert pod_disk(26 * GIB) == 36 * GIB


def test_texts_that_no_configmap_holds_are_refused_with_their_size() -> None:
    with pytest.raises(ConfigError, match=r"words.txt\) have 1048590 bytes, and a ConfigMap holds"):
        config_map({FILE: "models: {a: b}", "words.txt": "w" * (1 << 20)}, "pool")
