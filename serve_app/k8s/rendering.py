"""A set of manifests for a user's own registry. Pure: objects and values in, objects out."""

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import ValidationError

from serve_app.config import ServeConfig
from serve_app.errors import ConfigError
from serve_app.k8s.cluster_values import ClusterValues, Wanted
from serve_app.k8s.kustomize import Object, compose, image_of_all, namespace_of_all
from serve_app.k8s.quantity import memory
from serve_app.k8s.recipe_pod import RecipeRun, config_map, pod_disk, pod_memory
from serve_app.serving.graces import NODE_VARIABLE, Graces, graces_of

_AZURE_ACCOUNT = "AZURE_STORAGE_ACCOUNT_NAME"
_USABLE = 0.9
"""Of `/dev/shm`, which the object store may fill; Ray itself allows 95 %."""


def rendered(wanted: Wanted) -> list[Object]:
    """The objects of a set, those that others need first.

    Raises: ConfigError for a setting that the endpoint refuses, or a recipe that is too long.
    """
    objects = compose(wanted.overlay, wanted.components)
    values = wanted.values
    for one in objects:
        for environment in _environments(one):
            environment["EXPERTPOOL_REGISTRY"]["value"] = wanted.registry
            environment["EXPERTPOOL_FAMILY"]["value"] = wanted.family
            if _AZURE_ACCOUNT in environment:
                environment[_AZURE_ACCOUNT]["value"] = values.storage_account
        _account(one, values)
        if values.object_store_memory is not None:
            _object_store(one, values.object_store_memory)
        match one["kind"]:
            case "RayService":
                _endpoint(one, wanted)
            case "RayJob":
                _consolidation(one, wanted)
            case "CronJob" if values.schedule is not None:
                one["spec"] |= {"schedule": values.schedule, "suspend": False}
            case "PersistentVolumeClaim" if values.storage_class is not None:
                one["spec"]["storageClassName"] = values.storage_class
    _routes(objects, values, graces_of(_drain_s(objects)))
    if wanted.run is not None:
        _recipe(objects, wanted.run)
    if values.image is not None:
        image_of_all(objects, "expertpool", values.image)
    if values.namespace is not None:
        namespace_of_all(objects, values.namespace)
    return objects


def in_yaml(objects: list[Object]) -> str:
    """Documents that `kubectl apply -f` takes."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as such, and nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def _endpoint(service: Object, wanted: Wanted) -> None:
    """The Serve config, the times that follow from it, and the pods that it needs."""
    values, spec = wanted.values, service["spec"]
    config = yaml.safe_load(spec["serveConfigV2"])
    [app] = config["applications"]
    app["args"] |= _checked(wanted, app["args"])
    graces = graces_of(float(app["args"]["drain_s"]))
    deployments = {each["name"]: each for each in app["deployments"]}
    ingress, engine = deployments["Ingress"], deployments["Engine"]
    ingress["graceful_shutdown_timeout_s"] = _whole(graces.ingress_s)
    engine["graceful_shutdown_timeout_s"] = _whole(graces.engine_s)
    if values.channel is not None:
        engine["user_config"] = {"channel": values.channel}
    cluster = spec["rayClusterConfig"]
    workers = {each["groupName"]: each for each in cluster["workerGroupSpecs"]}
    _set_engines(engine, workers["engine"], values)
    if values.ingresses is not None:
        ingress["num_replicas"] = values.ingresses
        _set_replicas(workers["ingress"], values.ingresses, values.ingresses)
    for group in (cluster["headGroupSpec"], *workers.values()):
        _set_graces(group["template"]["spec"], graces)
    _set_resources(workers["engine"], values.engine_cpus, values.engine_memory)
    spec["serveConfigV2"] = yaml.dump(config, Dumper=_Dumper, sort_keys=False)
    if values.gateway_class is not None:
        options = spec["upgradeStrategy"]["clusterUpgradeOptions"]
        options["gatewayClassName"] = values.gateway_class


def _checked(wanted: Wanted, args: Object) -> dict[str, Any]:
    """The given settings as the endpoint would read them."""
    both = {**args, **wanted.settings, "registry": wanted.registry, "family": wanted.family}
    if "insecure_no_keys" in wanted.settings and "keys" not in wanted.settings:
        both.pop("keys", None)
    try:
        read = ServeConfig.model_validate(both).model_dump(mode="json")
    except ValidationError as error:
        raise ConfigError(_in_words(error)) from error
    checked = {name: read[name] for name in wanted.settings}
    if read["keys"] is None:
        args.pop("keys", None)
    return checked


def _in_words(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, each['loc']))}: {each['input']!r}: {each['msg']}"
        for each in error.errors(include_url=False)
    )


def _set_engines(engine: Object, group: Object, values: ClusterValues) -> None:
    least = values.engines
    if (scaling := engine.get("autoscaling_config")) is None:
        if least is not None:
            engine["num_replicas"] = least
            _set_replicas(group, least, least)
        return
    low = least if least is not None else scaling["min_replicas"]
    most = values.max_engines if values.max_engines is not None else scaling["max_replicas"]
    scaling |= {"min_replicas": min(low, most), "max_replicas": max(low, most)}
    _set_replicas(group, scaling["min_replicas"], scaling["max_replicas"])


def _set_replicas(group: Object, least: int, most: int) -> None:
    group |= {"replicas": least, "minReplicas": least, "maxReplicas": most}


def _set_graces(pod: Object, graces: Graces) -> None:
    pod["terminationGracePeriodSeconds"] = graces.pod_s
    for environment in _environments(pod):
        environment[NODE_VARIABLE]["value"] = f"{graces.node_s:g}"


def _consolidation(job: Object, wanted: Wanted) -> None:
    """The pod of the job: as large as was said, else as the recipe needs."""
    values, head = wanted.values, job["spec"]["rayClusterSpec"]["headGroupSpec"]
    num_bytes, disk = values.consolidation_memory, values.consolidation_disk
    if wanted.run is not None:
        store = int(head["rayStartParams"]["object-store-memory"])
        num_bytes = num_bytes or pod_memory(wanted.run.stage_bytes, store)
        disk = disk or pod_disk(wanted.run.fetched_bytes)
    _set_resources(head, values.consolidation_cpus, num_bytes)
    if values.consolidation_cpus is not None:
        head["rayStartParams"]["num-cpus"] = str(values.consolidation_cpus)
    if disk is not None:
        for volume in head["template"]["spec"]["volumes"]:
            if volume["name"] == "cache":
                volume["emptyDir"]["sizeLimit"] = memory(disk)


def _recipe(objects: list[Object], run: RecipeRun) -> None:
    """The ConfigMap, before the job that mounts it."""
    [(at, job)] = [(at, one) for at, one in enumerate(objects) if one["kind"] == "RayJob"]
    objects.insert(at, config_map(run.files, job["metadata"]["namespace"]))


def _set_resources(group: Object, cpus: int | None, num_bytes: int | None) -> None:
    [container] = group["template"]["spec"]["containers"]
    resources = container["resources"]
    if cpus is not None:
        resources["requests"]["cpu"] = str(cpus)
    if num_bytes is not None:
        resources["requests"]["memory"] = resources["limits"]["memory"] = memory(num_bytes)


def _object_store(value: Any, num_bytes: int) -> None:
    """In every group of Ray below `value`, with the `/dev/shm` that it lies in."""
    for each in _below(value):
        if "object-store-memory" in each:
            each["object-store-memory"] = str(num_bytes)
        if each.get("name") == "shm" and "emptyDir" in each:
            each["emptyDir"]["sizeLimit"] = memory(int(num_bytes / _USABLE))


def _account(one: Object, values: ClusterValues) -> None:
    """The cloud's account in the annotation that a component has made."""
    identities = {
        "expertpool-serve": values.serve_identity,
        "expertpool-consolidate": values.consolidate_identity,
    }
    if one["kind"] != "ServiceAccount":
        return
    identity = identities.get(one["metadata"]["name"])
    annotations = one["metadata"].get("annotations", {})
    if identity is None:
        one["metadata"].pop("annotations", None)
    for key in annotations:
        annotations[key] = identity


def _drain_s(objects: list[Object]) -> float:
    [service] = [one for one in objects if one["kind"] == "RayService"]
    [app] = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    return float(app["args"]["drain_s"])


def _routes(objects: list[Object], values: ClusterValues, graces: Graces) -> None:
    for one in objects:
        if one["kind"] != "HTTPRoute":
            continue
        for rule in one["spec"]["rules"]:
            rule["timeouts"] = dict.fromkeys(rule["timeouts"], f"{graces.balancer_s}s")
        if values.hostname is not None:
            one["spec"]["hostnames"] = [values.hostname]
        if values.gateway is not None:
            namespace, _, name = values.gateway.rpartition("/")
            parent = {"name": name} | ({"namespace": namespace} if namespace else {})
            one["spec"]["parentRefs"] = [parent]


def _environments(value: Any) -> Iterator[dict[str, Object]]:
    """The variables of each container below `value` that has some of ours, by name."""
    for each in _below(value):
        if isinstance(each.get("env"), list):
            variables = {one["name"]: one for one in each["env"]}
            if "EXPERTPOOL_REGISTRY" in variables:
                yield variables


def _below(value: Any) -> Iterator[Object]:
    if isinstance(value, list):
        for one in value:
            yield from _below(one)
    elif isinstance(value, dict):
        yield value
        for one in value.values():
            yield from _below(one)


def _whole(seconds: float) -> float | int:
    return int(seconds) if seconds == int(seconds) else seconds
