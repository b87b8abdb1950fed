"""Objects of files, and the pods, clusters and Serve configs in them. Judges nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from serve_app.errors import ConfigError
from serve_app.k8s.lint.mistake import Described

Json = dict[str, Any]
_CLUSTERS = {
    "RayCluster": "spec",
    "RayService": "spec.rayClusterConfig",
    "RayJob": "spec.rayClusterSpec",
}
IMPORT_PATH = "serve_app.serving.app:build"
INGRESS, ENGINE = "Ingress", "Engine"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod, or the template of one.   path: that of its spec."""

    path: str
    spec: Json

    def containers(self) -> Iterator[tuple[str, Json]]:
        """Each container with its path, those that start first too."""
        for key in ("initContainers", "containers"):
            for index, one in enumerate(self.spec.get(key) or ()):
                yield f"{self.path}.{key}[{index}]", one

    @property
    def environment(self) -> dict[str, str]:
        """What its containers are told by value."""
        return {
            each["name"]: str(each["value"])
            for _, container in self.containers()
            for each in container.get("env") or ()
            if "value" in each
        }


@dataclass(frozen=True, slots=True)
class Group:
    """Pods of one kind in a Ray cluster.   path: where.   most: how many there may be."""

    path: str
    is_head: bool
    most: int
    start: Mapping[str, str]
    pod: Pod


@dataclass(frozen=True, slots=True)
class Application:
    """Our application in a Serve config.   path: within the config."""

    path: str
    args: Json
    deployments: dict[str, tuple[str, Json]]
    """Each with its path."""
    config: Json


def read(path: Path) -> list[Described]:
    """The objects of a YAML file. Raises ConfigError if it is none, or one has no kind or name."""
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    found = []
    for number, content in enumerate(documents, start=1):
        if content is None:
            continue
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: document {number} is no object of Kubernetes")
        metadata = content.get("metadata")
        named = isinstance(metadata, dict) and "name" in metadata
        missing = [key for key in ("apiVersion", "kind") if not isinstance(content.get(key), str)]
        if missing or not named:
            lacks = ", ".join([*missing, *([] if named else ["metadata.name"])])
            raise ConfigError(f"{path}: document {number} lacks {lacks}")
        found.append(Described(str(path), content))
    return found


def pods(value: object, path: str = "") -> Iterator[Pod]:
    """Every pod below `value`."""
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from pods(one, f"{path}[{index}]")
    elif isinstance(value, dict):
        if isinstance(value.get("containers"), list):
            yield Pod(path, value)
        for key, one in value.items():
            yield from pods(one, f"{path}.{key}" if path else key)


def cluster(one: Described) -> tuple[str, Json] | None:
    """The Ray cluster that an object has, with its path."""
    path = _CLUSTERS.get(one.kind)
    if path is None:
        return None
    value: Any = one.content
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return (path, value) if isinstance(value, dict) else None


def groups(one: Described) -> list[Group]:
    """The groups of the object's Ray cluster, the head first."""
    found = cluster(one)
    if found is None:
        return []
    path, content = found
    made = []
    if isinstance(head := content.get("headGroupSpec"), dict):
        made.append(_group(f"{path}.headGroupSpec", head, 1, is_head=True))
    for index, worker in enumerate(content.get("workerGroupSpecs") or ()):
        most = int(worker.get("maxReplicas", worker.get("replicas", 0)))
        place = f"{path}.workerGroupSpecs[{index}]"
        made.append(_group(place, worker, most * int(worker.get("numOfHosts", 1)), is_head=False))
    return made


def application(one: Described) -> Application | None:
    """Our application of a RayService whose Serve config can be read."""
    try:
        config = serve_config(one)
    except (yaml.YAMLError, RecursionError):
        return None
    if not isinstance(config, dict):
        return None
    for index, app in enumerate(config.get("applications") or ()):
        if isinstance(app, dict) and app.get("import_path") == IMPORT_PATH:
            path = f"applications[{index}]"
            deployments = {
                each.get("name", ""): (f"{path}.deployments[{number}]", each)
                for number, each in enumerate(app.get("deployments") or ())
                if isinstance(each, dict)
            }
            return Application(path, app.get("args") or {}, deployments, config)
    return None


def serve_config(one: Described) -> Any:
    """What is written in `serveConfigV2`; None if there is none. Raises yaml.YAMLError."""
    if one.kind != "RayService":
        return None
    return yaml.safe_load(one.content.get("spec", {}).get("serveConfigV2") or "")


def most_replicas(deployment: Json) -> int:
    """How many replicas a deployment may have."""
    scaling = deployment.get("autoscaling_config")
    if isinstance(scaling, dict):
        return int(scaling.get("max_replicas", 1))
    given = deployment.get("num_replicas", 1)
    return given if isinstance(given, int) else 1


def _group(path: str, content: Json, most: int, *, is_head: bool) -> Group:
    spec = content.get("template", {}).get("spec", {})
    start = content.get("rayStartParams") or {}
    return Group(path, is_head, most, start, Pod(f"{path}.template.spec", spec))
