"""What the pod that consolidates a recipe must have, and the ConfigMap that brings it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.errors import ConfigError
from serve_app.k8s.kustomize import Object

GIB = 1 << 30
NAME = "expertpool-recipe"
FILE = "recipe.yaml"
"""Where the job's entrypoint looks for the recipe, beside what the recipe names."""
MOST_BYTES = 1 << 20
"""Of a ConfigMap, as Kubernetes has it."""
_START_BYTES = 2 * GIB
"""Ray and its processes before a stage begins; 1.2 to 1.4 GiB were measured."""
_SPARE = 1.25
"""What stages state is measured in tensors; a limit ends whoever is above it for a moment."""
_SCRATCH_BYTES = 10 * GIB
"""Logs, headers, and activations that are laid aside."""


@dataclass(frozen=True, slots=True)
class RecipeRun:
    """A recipe, and what consolidating it takes.

    files: texts by name, `recipe.yaml` and what it names.   stage_bytes: the most that a stage
    holds.   fetched_bytes: of the weights that the run fetches.
    """

    files: Mapping[str, str]
    stage_bytes: int
    fetched_bytes: int


def pod_memory(stage_bytes: int, object_store: int) -> int:
    """Bytes, in whole GiB.   stage_bytes: the most that a stage holds by itself."""
    return _whole(stage_bytes * _SPARE + _START_BYTES + object_store)


def pod_disk(fetched: int) -> int:
    """Bytes, in whole GiB.   fetched: of the files that the run fetches."""
    return _whole(fetched + _SCRATCH_BYTES)


def config_map(files: Mapping[str, str], namespace: str) -> Object:
    """files: text by name, `recipe.yaml` among them. Raises: ConfigError if it is too large."""
    num_bytes = sum(len(text.encode()) for text in files.values())
    if num_bytes > MOST_BYTES:
        named = ", ".join(name for name in files if name != FILE)
        raise ConfigError(
            f"the recipe and what lies beside it ({named}) have {num_bytes} bytes, and a ConfigMap "
            f"holds {MOST_BYTES}: bring shorter texts"
        )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": NAME,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/part-of": "expertpool"},
        },
        "data": dict(files),
    }


def _whole(num_bytes: float) -> int:
    return -int(-num_bytes // GIB) * GIB
