"""A set of manifests as `expertpool k8s render` writes it, fitted to nodes of one machine."""

import copy
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.chaos.endpoint import EXPERTPOOL, ROOT
from tests.serving.family import FAMILY


@dataclass(frozen=True, slots=True)
class Manifests:
    """config: `serveConfigV2`.   environment: of every pod of Ray."""

    config: Mapping[str, Any]
    environment: Mapping[str, str]

    def with_changes(
        self,
        *,
        engines: int | None = None,
        user: Mapping[str, Any] | None = None,
        args: Mapping[str, Any] | None = None,
        scaling: Mapping[str, Any] | None = None,
    ) -> "Manifests":
        """As an operator edits it.   engines: replicas.   user: `user_config` of the engine.

        scaling: its `autoscaling_config`, in place of a number of replicas.
        """
        config: Any = copy.deepcopy(dict(self.config))
        [app] = config["applications"]
        [engine] = [each for each in app["deployments"] if each["name"] == "Engine"]
        if engines is not None:
            engine["num_replicas"] = engines
        if user is not None:
            engine["user_config"] = dict(user)
        app["args"] |= args or {}
        if scaling is not None:
            del engine["num_replicas"]
            engine["autoscaling_config"] = dict(scaling)
        return Manifests(config, self.environment)

    def from_registry(self, registry: str) -> "Manifests":
        """The same for another registry."""
        return Manifests(self.config, {**self.environment, "EXPERTPOOL_REGISTRY": registry})

    def text(self, port: int) -> str:
        """What `serve deploy` takes.   port: of the head's proxy; those of workers have others."""
        options = {"host": "127.0.0.1", "port": port}
        return yaml.safe_dump({**self.config, "http_options": options}, sort_keys=False)


def rendered(
    registry: str,
    out: Path,
    drain_s: float,
    args: Mapping[str, Any],
    overlay: str = "single-gpu",
) -> Manifests:
    """One engine with a GPU and two ingresses, or what another overlay has.

    registry, args: a folder, and settings of the endpoint that `render` refuses for a cluster, as
    `device: cpu` or a path of this machine. So they are put in afterwards.
    """
    file = out / "set.yaml"
    command = [
        *(sys.executable, "-c", EXPERTPOOL, "k8s", "render", "--family", FAMILY),
        *("--registry", "s3://none/registry", "--overlay", overlay, "--output", str(file)),
        *("--set", "image=expertpool:test", "--set", f"drain_s={drain_s:g}"),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    objects = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    [service] = [one for one in objects if one["kind"] == "RayService"]
    head = service["spec"]["rayClusterConfig"]["headGroupSpec"]
    [container] = head["template"]["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    return Manifests(config, environment).from_registry(registry).with_changes(args=args)
