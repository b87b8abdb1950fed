"""Objects against the schemas of Kubernetes and of custom objects. Fetches nothing.

Those of Kubernetes come with the package kubernetes-validate, if it is installed; those of custom
objects are given as files. What has no schema is named, and not judged.
"""

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from serve_app.errors import ConfigError
from serve_app.k8s.lint.manifest_files import Json, Pod, pods
from serve_app.k8s.lint.mistake import Described, Finding

Kind = tuple[str, str]
"""Such as `("ray.io/v1", "RayService")`."""
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Schemas:
    """custom: strict schemas by kind.   version: of Kubernetes; None: the newest that is known.

    core: whether objects of Kubernetes itself are judged too, if their schemas are installed.
    """

    def __init__(
        self, custom: Mapping[Kind, Json], version: str | None = None, *, core: bool = True
    ) -> None:
        self._core_too = core
        self._custom = custom
        self._version = version

    def problems(self, objects: Sequence[Described]) -> Iterator[Finding]:
        """What does not fit its schema, unknown fields too."""
        for one in objects:
            schema = self._custom.get(_kind(one))
            if schema is not None:
                for path, value, words in violations(one.content, schema):
                    yield one.wrong(path, value, words)
            elif self._kubernetes is not None and not self._is_custom(one):
                yield from self._core(one, one.content, "")
            elif self._kubernetes is not None:
                for pod in pods(one.content):
                    yield from self._core(one, _as_pod(pod), pod.path)

    def notices(self, objects: Sequence[Described]) -> Iterator[str]:
        """What was not judged, and what to do about it."""
        if self._kubernetes is None:
            yield (
                "objects of Kubernetes itself are not compared with their schemas: "
                "install expertpool[k8s]"
            )
        without = {
            one.kind: one
            for one in objects
            if _kind(one) not in self._custom and self._is_custom(one)
        }
        for kind, one in sorted(without.items()):
            group = one.content["apiVersion"].partition("/")[0]
            crd = f"{_plural(kind)}.{group}"
            yield (
                f"{kind} is not compared with its schema: give --schemas a file of "
                f"`kubectl get crd {crd} -o yaml`"
            )

    @cached_property
    def _kubernetes(self) -> Any:
        if not self._core_too or importlib.util.find_spec("kubernetes_validate") is None:
            return None
        import kubernetes_validate

        return kubernetes_validate

    def _is_custom(self, one: Described) -> bool:
        """Groups of Kubernetes have no dot, or end in k8s.io and are built in."""
        group, slash, _ = one.content["apiVersion"].partition("/")
        built_in = group.endswith(".k8s.io") and not group.startswith("gateway.")
        return bool(slash) and "." in group and not built_in

    def _core(self, one: Described, content: Json, path: str) -> Iterator[Finding]:
        package = self._kubernetes
        version = self._version or package.latest_version()
        try:
            package.validate(content, version, strict=True)
        except package.ValidationError as error:
            inside = json_path(error.path)
            whole = ".".join(part for part in (path, inside.removeprefix("spec.")) if part)
            place = whole if path else inside
            yield one.wrong(place or "the object", _scalar(error.instance), error.message)
        except package.SchemaNotFoundError as error:
            yield one.wrong("apiVersion", content["apiVersion"], error.message)
        except package.VersionNotSupportedError as error:
            raise ConfigError(f"--kubernetes {version}: {error.message}") from error


def _as_pod(pod: Pod) -> Json:
    """What a template makes: KubeRay's schema has the rest of its object."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod.spec}


def read_schemas(paths: Sequence[Path]) -> dict[Kind, Json]:
    """Strict schemas of files and folders: CustomResourceDefinitions, or a kind with its schema.

    Raises ConfigError for a file that is neither.
    """
    files = [
        file
        for path in paths
        for file in (sorted(path.glob("*.[jy]*")) if path.is_dir() else [path])
    ]
    found: dict[Kind, Json] = {}
    for file in files:
        try:
            for one in _documents(file):
                for each in one["items"] if one.get("kind") == "List" else [one]:
                    found |= _of_document(each)
        except (
            ValueError,
            yaml.YAMLError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise ConfigError(
                f"{file}: has no schema: give what `kubectl get crd NAME -o yaml` prints"
            ) from error
    return found


def _documents(file: Path) -> list[Json]:
    """Those of a cluster are megabytes, for which plain YAML takes many seconds."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        return [json.loads(text)]
    return [one for one in yaml.load_all(text, Loader=_LOADER) if one]


def _of_document(one: Json) -> dict[Kind, Json]:
    if one["kind"] != "CustomResourceDefinition":
        return {(f"{one['group']}/{one['version']}", one["kind"]): strict(one["schema"])}
    spec = one["spec"]
    return {
        (f"{spec['group']}/{version['name']}", spec["names"]["kind"]): strict(
            version["schema"]["openAPIV3Schema"]
        )
        for version in spec["versions"]
    }


def strict(schema: Json) -> Json:
    """A structural schema of Kubernetes as a JSON Schema that refuses unknown keys.

    A required field with a default may be absent, a nullable one may be null, and where
    Kubernetes says int-or-string both pass: as `kubectl --validate=strict` has it.
    """
    if schema.get("x-kubernetes-int-or-string"):
        kept: Json = {"type": ["integer", "string"]}
        return kept | {key: schema[key] for key in ("pattern", "enum") if key in schema}
    made: Json = {key: value for key, value in schema.items() if not key.startswith("x-")}
    properties = {key: strict(value) for key, value in schema.get("properties", {}).items()}
    if properties:
        made["properties"] = properties
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
        needed = [name for name in schema.get("required", []) if "default" not in properties[name]]
        made["required"] = needed
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), dict):
            made[key] = strict(made[key])
    if made.pop("nullable", False) and "type" in made:
        made["type"] = [made["type"], "null"]
    return made


def violations(value: Json, schema: Json) -> Iterator[tuple[str, object, str]]:
    """Where `value` breaks `schema`: the path, what is there, and what is wrong with it."""
    import jsonschema

    for error in jsonschema.Draft202012Validator(schema).iter_errors(value):
        yield json_path(error.path) or "the object", _scalar(error.instance), error.message


def json_path(parts: Any) -> str:
    """`spec.containers[0]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")


def _scalar(value: object) -> object:
    return "{…}" if isinstance(value, dict) else value


def _kind(one: Described) -> Kind:
    return one.content["apiVersion"], one.kind


def _plural(kind: str) -> str:
    return f"{kind.lower()}s"
