"""Objects that are there twice, and what they refer to that is nowhere. Judges no field itself."""

from collections.abc import Iterator, Sequence

from serve_app.k8s.lint.manifest_files import pods
from serve_app.k8s.lint.mistake import Described, Finding


def twice(objects: Sequence[Described]) -> Iterator[Finding]:
    """Of two objects with one name, the later one would replace the other."""
    seen: dict[tuple[str, str, str], Described] = {}
    for one in objects:
        metadata = one.content["metadata"]
        key = (one.kind, metadata.get("namespace", ""), metadata["name"])
        if key in seen:
            right = f"{seen[key].file} has one of that name: it would be replaced"
            yield one.wrong("metadata.name", metadata["name"], right)
        seen[key] = one
        yield from _mounts(one)


def _mounts(one: Described) -> Iterator[Finding]:
    """KubeRay's schema does not say that what is mounted must be there."""
    for pod in pods(one.content):
        volumes = {volume.get("name") for volume in pod.spec.get("volumes") or ()}
        volumes |= {
            claim["metadata"]["name"]
            for claim in one.content.get("spec", {}).get("volumeClaimTemplates") or ()
        }
        for path, container in pod.containers():
            for index, mount in enumerate(container.get("volumeMounts") or ()):
                if mount.get("name") not in volumes:
                    field = f"{path}.volumeMounts[{index}].name"
                    yield one.wrong(field, mount.get("name"), "the pod has no such volume")
