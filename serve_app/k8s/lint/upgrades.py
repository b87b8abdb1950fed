"""Fields of KubeRay that do not do what one expects: upgrades, retries, tokens, dead names."""

from collections.abc import Iterator, Sequence

from serve_app.k8s.lint.manifest_files import cluster
from serve_app.k8s.lint.mistake import Described, Finding

_DEAD = ("serviceUnhealthySecondThreshold", "deploymentUnhealthySecondThreshold")
_GRADUAL = "NewClusterWithIncrementalUpgrade"


def upgrades(objects: Sequence[Described]) -> Iterator[Finding]:
    """What KubeRay takes without a word, and does otherwise."""
    for one in objects:
        if one.kind == "RayService":
            yield from _of_service(one)
        if one.kind == "RayJob":
            yield from _of_job(one)
        if (found := cluster(one)) is not None:
            path, content = found
            mode = (content.get("authOptions") or {}).get("mode")
            if mode != "token":
                right = (
                    "give token (from KubeRay 1.5.1 on), or anybody can run code by the dashboard"
                )
                yield one.wrong(f"{path}.authOptions.mode", mode, right)


def _of_service(one: Described) -> Iterator[Finding]:
    spec = one.content["spec"]
    for key in _DEAD:
        if key in spec:
            yield one.wrong(f"spec.{key}", spec[key], "leave it out: KubeRay ignores it")
    strategy = spec.get("upgradeStrategy") or {}
    kind = strategy.get("type")
    if kind == "None":
        right = (
            "a new image or another size will be ignored in silence, and takes effect only when "
            "the RayCluster is deleted (docs/kubernetes.md)"
        )
        yield one.doubtful("spec.upgradeStrategy.type", kind, right)
    if kind == _GRADUAL:
        if not (spec.get("rayClusterConfig") or {}).get("enableInTreeAutoscaling"):
            field = "spec.rayClusterConfig.enableInTreeAutoscaling"
            yield one.wrong(field, None, f"give true: KubeRay refuses {kind} without it")
        if not (strategy.get("clusterUpgradeOptions") or {}).get("gatewayClassName"):
            field = "spec.upgradeStrategy.clusterUpgradeOptions.gatewayClassName"
            yield one.wrong(field, None, f"name a class: KubeRay refuses {kind} without one")


def _of_job(one: Described) -> Iterator[Finding]:
    spec = one.content["spec"]
    if tries := spec.get("backoffLimit"):
        right = "give 0: KubeRay builds a new cluster for input that was refused (exit code 2), too"
        yield one.wrong("spec.backoffLimit", tries, right)
