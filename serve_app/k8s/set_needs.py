"""What a set of manifests needs and cannot hold: secrets, operators, images. Creates nothing."""

from collections.abc import Iterator, Sequence

from serve_app.k8s.kustomize import Object
from serve_app.k8s.recipe_pod import NAME

_OPERATORS = {
    "ray.io": "KubeRay 1.5.1 or newer (1.7.0 or newer for incremental upgrades)",
    "monitoring.coreos.com": "the operator of Prometheus",
    "gateway.networking.k8s.io": "the Gateway API, and a Gateway",
}


def needed(objects: Sequence[Object]) -> Iterator[str]:
    """A line each, with the command where there is one."""
    groups = dict.fromkeys(one["apiVersion"].partition("/")[0] for one in objects)
    yield from (_OPERATORS[group] for group in groups if group in _OPERATORS)
    images = dict.fromkeys(image for one in objects for image in _images(one))
    yield f"images that the nodes can pull: {', '.join(images)} (another: --set image=…)"
    [service] = [one for one in objects if one["kind"] == "RayService"]
    namespace = service["metadata"]["namespace"]
    created = f"kubectl -n {namespace} create"
    secrets = set(_secrets(objects))
    if "expertpool-keys" in secrets:
        yield (
            "the keys of tenants: expertpool keys new --tenant NAME --keys keys.yaml, then "
            f"{created} secret generic expertpool-keys --from-file keys.yaml"
        )
    if "expertpool-redis" in secrets:
        yield (
            "a password for Redis: "
            f"{created} secret generic expertpool-redis --from-literal password=…"
        )
    if not any(one["metadata"].get("annotations") for one in objects if _is_account(one)):
        yield (
            "access to the bucket: --set serve_identity=… --set consolidate_identity=…, or "
            f"{created} secret generic expertpool-storage with the store's own variables"
        )
    if not any(one["kind"] == "ConfigMap" and one["metadata"]["name"] == NAME for one in objects):
        yield (
            "to consolidate on the cluster, a recipe: --recipe recipe.yaml, or "
            f"{created} configmap {NAME} --from-file recipe.yaml"
        )


def _images(value: object) -> Iterator[str]:
    if isinstance(value, list):
        for one in value:
            yield from _images(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            if key == "image" and isinstance(one, str):
                yield one
            yield from _images(one)


def _secrets(value: object) -> Iterator[str]:
    if isinstance(value, list):
        for one in value:
            yield from _secrets(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            if key == "secretName":
                yield one
            if key == "secretKeyRef":
                yield one["name"]
            yield from _secrets(one)


def _is_account(one: Object) -> bool:
    return bool(one["kind"] == "ServiceAccount")
