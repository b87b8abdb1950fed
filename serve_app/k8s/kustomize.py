"""Builds the folders in `manifests` as `kubectl kustomize` does. Knows what they use, no more.

So `k8s render` needs no other program. What a folder may have: resources, components, patches by
JSON Patch with a kind and a name as target, namespace, labels, images, and generated ConfigMaps
without a suffix. A test compares the results with those of kubectl.
"""

import copy
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
MANIFESTS = Path(__file__).parent / "manifests"
_CLUSTER_WIDE = frozenset({"Namespace", "ClusterRole", "ClusterRoleBinding"})


def build(folder: Path) -> list[Object]:
    """The objects of a folder with a `kustomization.yaml`, namespaces first.

    Raises ValueError if the folder has what this does not know, or a patch that does not fit.
    """
    built = _accumulated(folder, [])
    return sorted(built, key=lambda one: one["kind"] != "Namespace")


def compose(overlay: str, components: tuple[str, ...] = ()) -> list[Object]:
    """The objects of an overlay of ours with components, in this order. Raises: see `build`."""
    objects = build(MANIFESTS / "overlays" / overlay)
    for name in components:
        objects = _accumulated(MANIFESTS / "components" / name, objects)
    return objects


def names_of(part: str) -> tuple[str, ...]:
    """Which overlays or components there are. part: `overlays` or `components`."""
    return tuple(sorted(one.name for one in (MANIFESTS / part).iterdir() if one.is_dir()))


def namespace_of_all(objects: list[Object], name: str) -> None:
    """Put all objects into a namespace, and give the one among them that is one its name."""
    for one in objects:
        _set_namespace(one, name)


def image_of_all(objects: list[Object], name: str, image: str) -> None:
    """Give every container with an image of this name another one, with its tag or digest."""
    for one in objects:
        _set_image(one, {"name": name, "whole": image})


def _accumulated(folder: Path, objects: list[Object]) -> list[Object]:
    file = folder / "kustomization.yaml"
    given = yaml.safe_load(file.read_text(encoding="utf-8"))
    objects = list(objects)
    for name in given.pop("resources", ()):
        path = folder / name
        objects += build(path) if path.is_dir() else _read(path)
    objects += map(_config_map(folder), given.pop("configMapGenerator", ()))
    for name in given.pop("components", ()):
        objects = _accumulated(folder / name, objects)
    for patch in given.pop("patches", ()):
        _patch(objects, patch, folder, file)
    for change in _changes(given, file):
        for one in objects:
            change(one)
    return objects


def _changes(given: Object, file: Path) -> Iterator[Callable[[Object], None]]:
    del given["apiVersion"], given["kind"]
    for key, value in given.items():
        match key:
            case "namespace":
                yield partial(_set_namespace, name=value)
            case "labels":
                for pairs in (each["pairs"] for each in value):
                    yield partial(_label, pairs=pairs)
            case "images":
                for image in value:
                    yield partial(_set_image, image=image)
            case _:
                raise ValueError(f"{file}: {key} is not known here")


def _read(path: Path) -> list[Object]:
    """Without what anchors share: a change of one place must change no other."""
    found = [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]
    read: list[Object] = json.loads(json.dumps(found))
    return read


def _config_map(folder: Path) -> Callable[[Object], Object]:
    def made(given: Object) -> Object:
        options = given.get("options", {})
        if not options.get("disableNameSuffixHash"):
            raise ValueError(f"{folder}: the ConfigMap {given['name']} would get a suffix")
        metadata = {"name": given["name"]}
        if labels := options.get("labels"):
            metadata["labels"] = dict(labels)
        files = {Path(name).name: folder / name for name in given.get("files", ())}
        data = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}

    return made


def _patch(objects: list[Object], patch: Object, folder: Path, file: Path) -> None:
    text = patch.get("patch") or (folder / patch["path"]).read_text(encoding="utf-8")
    wanted = patch["target"]
    targets = [
        one
        for one in objects
        if one["kind"] == wanted["kind"] and one["metadata"]["name"] == wanted["name"]
    ]
    if not targets:
        raise ValueError(f"{file}: there is no {wanted['kind']} {wanted['name']} to patch")
    for one in targets:
        for step in yaml.safe_load(text):
            _apply(one, step, file)


def _apply(target: Object, step: Object, file: Path) -> None:
    """One operation of JSON Patch (RFC 6902): add, replace or remove."""
    *above, last = step["path"].lstrip("/").split("/")
    place: Any = target
    try:
        for name in above:
            place = place[int(name)] if isinstance(place, list) else place[_plain(name)]
        value = copy.deepcopy(step.get("value"))
        if isinstance(place, list):
            _apply_to_list(place, last, step["op"], value)
        else:
            if step["op"] != "add":
                del place[_plain(last)]
            if step["op"] != "remove":
                place[_plain(last)] = value
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ValueError(f"{file}: {step['op']} {step['path']} does not fit") from error


def _apply_to_list(place: list[Any], last: str, operation: str, value: Any) -> None:
    match operation, last:
        case "add", "-":
            place.append(value)
        case "add", _:
            place.insert(int(last), value)
        case "replace", _:
            place[int(last)] = value
        case _:
            del place[int(last)]


def _plain(name: str) -> str:
    return name.replace("~1", "/").replace("~0", "~")


def _set_namespace(one: Object, name: str) -> None:
    if one["kind"] == "Namespace":
        one["metadata"]["name"] = name
    elif one["kind"] not in _CLUSTER_WIDE:
        one["metadata"]["namespace"] = name
    for subject in one.get("subjects", ()):
        if subject["kind"] == "ServiceAccount":
            subject["namespace"] = name


def _label(one: Object, pairs: dict[str, str]) -> None:
    one["metadata"].setdefault("labels", {}).update(pairs)


def _set_image(value: Any, image: Object) -> None:
    """In every container below `value`."""
    if isinstance(value, list):
        for each in value:
            _set_image(each, image)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key in ("containers", "initContainers"):
                for container in each:
                    _rename(container, image)
            _set_image(each, image)


def _rename(container: Object, image: Object) -> None:
    name = container.get("image", "").partition(":")[0]
    if name == image["name"]:
        named = f"{image.get('newName', name)}:{image.get('newTag')}"
        container["image"] = image.get("whole", named)
