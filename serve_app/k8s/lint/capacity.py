"""Replicas, devices and shared memory that do not go together, so that something never runs."""

import json
from collections.abc import Iterator, Sequence

from serve_app.k8s.lint.manifest_files import (
    ENGINE,
    Application,
    Group,
    application,
    groups,
    most_replicas,
)
from serve_app.k8s.lint.mistake import Described, Finding
from serve_app.k8s.quantity import memory, number

_SHARE = 0.3
"""Of a pod's memory, which Ray takes for its object store if it is not told otherwise."""
_USABLE = 0.95
"""Of `/dev/shm`: with more in its object store, Ray uses the disk."""


def capacity(objects: Sequence[Described]) -> Iterator[Finding]:
    """What never runs, or not where it should."""
    for one in objects:
        found = groups(one)
        for group in found:
            yield from _shared_memory(one, group)
        if app := application(one):
            yield from _devices(one, app, found)
            yield from _replicas(one, app, found)


def _replicas(one: Described, app: Application, found: Sequence[Group]) -> Iterator[Finding]:
    """Replicas that no pod has room for: each blocks every change for its whole grace."""
    asked: dict[str, float] = {}
    for _, deployment in app.deployments.values():
        actor = deployment.get("ray_actor_options") or {}
        wanted = {"GPU": actor.get("num_gpus", 0), **(actor.get("resources") or {})}
        for name, amount in wanted.items():
            asked[name] = asked.get(name, 0.0) + most_replicas(deployment) * float(amount)
    for name, amount in asked.items():
        there = sum(group.most * _offered(group, name) for group in found)
        if amount > there:
            words = f"{amount:g} × {name} for all replicas"
            right = (
                f"the pods have {there:g} × {name}: give fewer replicas or more pods "
                "(maxReplicas); a replica that is never placed blocks every later change"
            )
            yield one.wrong("spec.serveConfigV2: num_replicas", words, right)


def _offered(group: Group, name: str) -> float:
    """What one pod of a group tells Ray that it has."""
    if name != "GPU":
        return float(_custom(group).get(name, 0.0))
    given = group.start.get("num-gpus")
    return float(given) if given is not None else _gpus(group)


def _custom(group: Group) -> dict[str, float]:
    """KubeRay's way of writing it is JSON in quotes: `'"{\\"ingress\\": 1}"'`."""
    try:
        read = json.loads(group.start.get("resources") or "{}")
        found = json.loads(read) if isinstance(read, str) else read
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _gpus(group: Group) -> float:
    total = 0.0
    for _, container in group.pod.containers():
        limits = (container.get("resources") or {}).get("limits") or {}
        total += sum(number(value) for key, value in limits.items() if key.endswith("/gpu"))
    return total


def _devices(one: Described, app: Application, found: Sequence[Group]) -> Iterator[Finding]:
    device = app.args.get("device", "auto")
    path, engine = app.deployments.get(ENGINE, (app.path, {}))
    gpus = (engine.get("ray_actor_options") or {}).get("num_gpus", 0)
    field = f"spec.serveConfigV2: {app.path}.args.device"
    if device == "auto" and any(map(_gpus, found)):
        given = app.args.get("device")
        right = "give cuda: what reads this runs without a GPU, so auto would never ask for one"
        yield one.wrong(field, given, right)
    if device == "cuda" and not gpus:
        place = f"spec.serveConfigV2: {path}.ray_actor_options.num_gpus"
        yield one.wrong(place, gpus or None, "give 1, since the device is cuda")
    if device == "cpu" and gpus:
        yield one.wrong(field, device, f"give cuda, as the engine asks for {gpus} GPU")


def _shared_memory(one: Described, group: Group) -> Iterator[Finding]:
    volumes = {each["name"]: each for each in group.pod.spec.get("volumes") or ()}
    for path, container in group.pod.containers():
        for mount in container.get("volumeMounts") or ():
            limit = (volumes.get(mount["name"], {}).get("emptyDir") or {}).get("sizeLimit")
            if mount.get("mountPath") != "/dev/shm" or limit is None:
                continue
            of_pod = ((container.get("resources") or {}).get("limits") or {}).get("memory")
            store = group.start.get("object-store-memory")
            needed = float(store) if store else _SHARE * number(of_pod or 0)
            if needed > _USABLE * number(limit):
                least = memory(int(needed / _USABLE) + 1)
                said = "object-store-memory" if store else "30 % of the pod's memory"
                right = f"give at least {least}, or Ray uses the disk: {said} is {needed:.0f} bytes"
                yield one.wrong(f"{path}: sizeLimit of /dev/shm", limit, right)
            if of_pod is not None and number(limit) >= number(of_pod):
                right = f"give less than the pod's memory, {of_pod}, which it is a part of"
                yield one.wrong(f"{path}: sizeLimit of /dev/shm", limit, right)
