"""Our builder gives what kubectl gives, and refuses what it does not know."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.k8s.kustomize import MANIFESTS, Object, build, compose, names_of

OVERLAYS, COMPONENTS = names_of("overlays"), names_of("components")


def in_order(objects: list[Object]) -> list[Object]:
    return sorted(objects, key=lambda one: (one["kind"], one["metadata"]["name"]))


def by_kubectl(folder: Path) -> list[Object]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return in_order(list(yaml.safe_load_all(done.stdout)))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_what_kubectl_makes_of_it(overlay: str) -> None:
    assert in_order(compose(overlay)) == by_kubectl(MANIFESTS / "overlays" / overlay)


def test_all_components_together_are_what_kubectl_makes_of_them(tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS, tmp_path / "k8s")
    own = tmp_path / "k8s" / "own"
    own.mkdir()
    kustomization = {
        "resources": ["../overlays/single-gpu"],
        "components": [f"../components/{name}" for name in COMPONENTS],
    }
    (own / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    assert in_order(compose("single-gpu", COMPONENTS)) == by_kubectl(own)


def test_the_folders_of_the_issue_are_there() -> None:
    assert OVERLAYS == ("cpu-dev", "multi-gpu", "single-gpu")
    assert set(COMPONENTS) == {
        "bucket-azure",
        "bucket-gcs",
        "bucket-s3",
        "gateway",
        "monitoring",
        "network",
        "redis-ft",
        "rwx-volume",
    }


def test_the_namespace_comes_first() -> None:
    assert [compose(overlay)[0]["kind"] for overlay in OVERLAYS] == ["Namespace"] * 3


# What follows builds made-up folders.


def folder(place: Path, more: dict[str, Any]) -> Path:
    given = {"apiVersion": "x", "kind": "Kustomization", "resources": ["one.yaml"]} | more
    (place / "kustomization.yaml").write_text(yaml.safe_dump(given))
    (place / "one.yaml").write_text(
        "kind: A\nmetadata: {name: a}\nspec: {x: &shared {l: [1, 2]}, y: *shared, a/b: 0}\n"
    )
    return place


def patched(place: Path, *steps: dict[str, Any]) -> Object:
    patch = {"target": {"kind": "A", "name": "a"}, "patch": yaml.safe_dump(list(steps))}
    [built] = build(folder(place, {"patches": [patch]}))
    spec: Object = built["spec"]
    return spec


def test_a_patch_of_one_place_leaves_what_an_anchor_shared(tmp_path: Path) -> None:
    spec = patched(
        tmp_path,
        {"op": "add", "path": "/spec/x/l/-", "value": 3},
        {"op": "replace", "path": "/spec/x/l/0", "value": 0},
        {"op": "add", "path": "/spec/x/l/1", "value": 1},
        {"op": "remove", "path": "/spec/a~1b"},
    )
    assert spec == {"x": {"l": [0, 1, 2, 3]}, "y": {"l": [1, 2]}}


@pytest.mark.parametrize(
    "step",
    [
        {"op": "remove", "path": "/spec/z"},
        {"op": "replace", "path": "/spec/z", "value": 1},
        {"op": "add", "path": "/spec/z/y", "value": 1},
        {"op": "replace", "path": "/spec/x/l/7", "value": 1},
    ],
)
def test_a_patch_that_does_not_fit_is_named(step: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{step['op']} {step['path']} does not fit"):
        patched(tmp_path, step)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"replacements": []}, "replacements is not known"),
        ({"patches": [{"target": {"kind": "B", "name": "a"}, "patch": "[]"}]}, "no B a to patch"),
        ({"configMapGenerator": [{"name": "c", "files": ["one.yaml"]}]}, "c would get a suffix"),
    ],
)
def test_what_is_not_known_is_refused_by_name(
    more: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=named):
        build(folder(tmp_path, more))


def test_a_generated_config_map_holds_its_files(tmp_path: Path) -> None:
    options = {"disableNameSuffixHash": True, "labels": {"grafana_dashboard": "1"}}
    generator = [{"name": "c", "files": ["one.yaml"], "options": options}]
    built = build(folder(tmp_path, {"configMapGenerator": generator}))
    assert built[1]["metadata"] == {"name": "c", "labels": {"grafana_dashboard": "1"}}
    assert built[1]["data"]["one.yaml"].startswith("kind: A")
