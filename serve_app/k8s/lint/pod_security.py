"""Pods that a namespace with the Pod Security level `restricted` refuses, and needless tokens."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from serve_app.k8s.lint.manifest_files import Json, Pod, cluster, pods
from serve_app.k8s.lint.mistake import Described, Finding

_VOLUMES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)
_LEVEL = "the Pod Security level restricted"


def pod_security(objects: Sequence[Described]) -> Iterator[Finding]:
    """What https://kubernetes.io/docs/concepts/security/pod-security-standards forbids."""
    for one in objects:
        has_autoscaler = _has_autoscaler(one)
        for pod in pods(one.content):
            for field, value, right in _of_pod(pod):
                yield one.wrong(field, value, f"{right} ({_LEVEL})")
        yield from _tokens(one, has_autoscaler)
        if has_autoscaler and (found := cluster(one)):
            path, content = found
            head = content["headGroupSpec"]["template"]["spec"].get("securityContext") or {}
            options = content.get("autoscalerOptions") or {}
            sidecar = f"{path}.autoscalerOptions"
            for field, value, right in _of_container(sidecar, options, (head,)):
                yield one.wrong(field, value, f"{right} ({_LEVEL})")


def _of_pod(pod: Pod) -> Iterator[tuple[str, Any, str]]:
    spec = pod.spec
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"{pod.path}.{key}", spec[key], "leave it out"
    for index, volume in enumerate(spec.get("volumes") or ()):
        for kind in set(volume) - {"name"} - _VOLUMES:
            field = f"{pod.path}.volumes[{index}].{kind}"
            yield field, volume[kind], f"give one of {', '.join(sorted(_VOLUMES))}"
    own = spec.get("securityContext") or {}
    if own.get("runAsUser") == 0:
        yield f"{pod.path}.securityContext.runAsUser", 0, "give a user other than root: 1000"
    for path, container in pod.containers():
        yield from _of_container(path, container, (own,))


def _of_container(
    path: str, container: Json, above: Iterable[Json]
) -> Iterator[tuple[str, Any, str]]:
    """above: security contexts that hold where the container's own says nothing."""
    own = container.get("securityContext") or {}
    place = f"{path}.securityContext"
    contexts = (own, *above)
    if own.get("privileged"):
        yield f"{place}.privileged", True, "leave it out"
    if own.get("allowPrivilegeEscalation") is not False:
        value = own.get("allowPrivilegeEscalation")
        yield f"{place}.allowPrivilegeEscalation", value, "give false"
    dropped = (own.get("capabilities") or {}).get("drop")
    if "ALL" not in (dropped or ()):
        yield f"{place}.capabilities.drop", dropped, "give [ALL]"
    added = (own.get("capabilities") or {}).get("add") or []
    if set(added) - {"NET_BIND_SERVICE"}:
        yield f"{place}.capabilities.add", added, "give at most [NET_BIND_SERVICE]"
    if own.get("runAsUser") == 0:
        yield f"{place}.runAsUser", 0, "give a user other than root: 1000"
    not_root = _first(contexts, "runAsNonRoot")
    if not_root is not True:
        yield f"{place}.runAsNonRoot", not_root, "give true, here or for the pod"
    profile = (_first(contexts, "seccompProfile") or {}).get("type")
    if profile not in ("RuntimeDefault", "Localhost"):
        yield f"{place}.seccompProfile.type", profile, "give RuntimeDefault, here or for the pod"
    for index, port in enumerate(container.get("ports") or ()):
        if port.get("hostPort"):
            yield f"{path}.ports[{index}].hostPort", port["hostPort"], "leave it out"


def _tokens(one: Described, has_autoscaler: bool) -> Iterator[Finding]:
    """Pods of Ray ask the API nothing; the autoscaler, beside the head, does."""
    if (found := cluster(one)) is None:
        return
    for pod in pods(one.content):
        given = pod.spec.get("automountServiceAccountToken")
        needed = has_autoscaler and pod.path.startswith(f"{found[0]}.headGroupSpec")
        field = f"{pod.path}.automountServiceAccountToken"
        if needed and given is False:
            yield one.wrong(field, given, "give true: the autoscaler asks the API for pods")
        if not needed and given is not False:
            yield one.wrong(field, given, "give false: nothing in the pod asks the API")


def _has_autoscaler(one: Described) -> bool:
    found = cluster(one)
    return found is not None and bool(found[1].get("enableInTreeAutoscaling"))


def _first(contexts: Iterable[Json], key: str) -> Any:
    return next((context[key] for context in contexts if key in context), None)
