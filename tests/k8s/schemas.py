"""Kubernetes' structural schemas as strict JSON Schema. Fetches nothing: the files are given."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

Json = dict[str, Any]


def strict(schema: Json) -> Json:
    """`schema` with unknown keys refused, as `kubectl --validate=strict` has it.

    A required field with a default may be absent, a nullable one may be null, and where
    Kubernetes says int-or-string both pass.
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


def load(path: Path) -> tuple[str, Json]:
    """The kind that a schema file is about, and its strict schema."""
    content: Json = yaml.safe_load(path.read_text())
    return content["kind"], strict(content["schema"])


def problems(value: Json, schema: Json) -> list[str]:
    """What is wrong with `value`, each with its path."""
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def unknown_keys(value: object, model: Any, path: str = "$") -> Iterator[str]:
    """Keys of a Serve file that Serve's own pydantic models do not know, and so would ignore."""
    from pydantic import BaseModel

    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from unknown_keys(one, model, f"{path}[{index}]")
        return
    if not isinstance(value, dict) or not issubclass(model, BaseModel):
        return
    for key, inside in value.items():
        if key not in model.model_fields:
            yield f"{path}.{key}"
        elif nested := _model_of(model.model_fields[key].annotation):
            yield from unknown_keys(inside, nested, f"{path}.{key}")


def _model_of(annotation: Any) -> Any:
    """The pydantic model inside an annotation such as `list[Model] | None`."""
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    arguments = getattr(annotation, "__args__", ())
    return next((found for one in arguments if (found := _model_of(one))), None)
