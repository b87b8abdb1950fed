"""What a user says reaches every place that it belongs to, and nothing else changes."""

from typing import Any

import pytest
import yaml

from serve_app.errors import ConfigError
from serve_app.k8s.cluster_values import wanted
from serve_app.k8s.kustomize import Object, compose
from serve_app.k8s.quantity import duration_s, memory, number
from serve_app.k8s.rendering import in_yaml, rendered
from serve_app.k8s.set_needs import needed
from tests.k8s.support import a_set, judged, of_kind


def set_for(registry: str, *components: str, **given: str) -> list[Object]:
    return rendered(
        wanted(
            family="chat",
            registry=registry,
            overlay="single-gpu",
            components=components,
            given=given,
        )
    )


def app_of(objects: list[Object]) -> Any:
    service = of_kind(objects, "RayService")
    return yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]


def groups_of(objects: list[Object]) -> dict[str, Any]:
    cluster = of_kind(objects, "RayService")["spec"]["rayClusterConfig"]
    workers = {each["groupName"]: each for each in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"], **workers}


def test_family_and_registry_reach_every_pod_of_ray() -> None:
    text = in_yaml(set_for("s3://acme/models"))
    assert text.count("value: s3://acme/models\n") == 4
    assert text.count("value: chat\n") == 4
    assert "s3://expertpool" not in text


def test_a_set_without_values_differs_from_its_overlay_in_nothing_else() -> None:
    rendering = rendered(
        wanted(family="main", registry="s3://expertpool/registry", overlay="single-gpu")
    )
    [service] = [one for one in compose("single-gpu") if one["kind"] == "RayService"]
    written = yaml.safe_load(service["spec"].pop("serveConfigV2"))
    own = of_kind(rendering, "RayService")
    assert yaml.safe_load(own["spec"].pop("serveConfigV2")) == written
    assert own == service


def test_settings_of_the_endpoint_are_arguments_with_their_units_read() -> None:
    objects = a_set(device_memory="24GiB", step_tokens="1024", prefix_cache="no")
    args = app_of(objects)["args"]
    assert (args["device_memory"], args["step_tokens"]) == (24 * 2**30, 1024)
    assert args["prefix_cache"] is False
    assert judged(objects) == []


def test_all_times_follow_from_the_longest_request() -> None:
    objects = a_set("single-gpu", "gateway", drain_s="1800")
    [ingress, engine] = app_of(objects)["deployments"]
    assert ingress["graceful_shutdown_timeout_s"] == 1810
    assert engine["graceful_shutdown_timeout_s"] == 1800
    for group in groups_of(objects).values():
        pod = group["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] == 1860
        assert {"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": "1830"} in pod[
            "containers"
        ][0]["env"]
    [rule] = of_kind(objects, "HTTPRoute")["spec"]["rules"]
    assert rule["timeouts"] == {"request": "1810s", "backendRequest": "1810s"}
    assert judged(objects) == []


def test_shared_memory_follows_from_the_object_store_in_every_group() -> None:
    objects = a_set(object_store_memory="2GiB")
    for group in groups_of(objects).values():
        assert group["rayStartParams"]["object-store-memory"] == str(2 * 2**30)
        [shm] = [v for v in group["template"]["spec"]["volumes"] if v["name"] == "shm"]
        assert number(shm["emptyDir"]["sizeLimit"]) * 0.95 > 2 * 2**30
    assert judged(objects) == []


def test_engines_bring_their_pods_and_ingresses_theirs() -> None:
    objects = a_set("multi-gpu", engines="3", max_engines="8", ingresses="4")
    [ingress, engine] = app_of(objects)["deployments"]
    scaling = engine["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (3, 8)
    groups = groups_of(objects)
    assert (groups["engine"]["minReplicas"], groups["engine"]["maxReplicas"]) == (3, 8)
    assert ingress["num_replicas"] == groups["ingress"]["maxReplicas"] == 4
    assert judged(objects) == []


def test_sizes_and_names_reach_their_places() -> None:
    objects = set_for(
        "s3://acme/models",
        "gateway",
        image="acme.example/pool@sha256:0",
        namespace="pool",
        channel="canary",
        engine_cpus="12",
        engine_memory="64GiB",
        consolidation_cpus="16",
        consolidation_memory="96GiB",
        consolidation_disk="1TiB",
        schedule="0 1 * * *",
        serve_identity="arn:aws:iam::1:role/r",
        hostname="llm.acme.example",
        gateway="edge/public",
    )
    text = in_yaml(objects)
    assert text.count("image: acme.example/pool@sha256:0\n") == 6
    assert "namespace: expertpool\n" not in text
    assert "resources:\n" in text
    engine = groups_of(objects)["engine"]["template"]["spec"]["containers"][0]["resources"]
    assert engine["requests"] == {"cpu": "12", "memory": "64Gi", "nvidia.com/gpu": 1}
    job = of_kind(objects, "RayJob")["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert job["rayStartParams"]["num-cpus"] == "16"
    limits = job["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"memory": "96Gi"}
    assert "sizeLimit: 1024Gi" in text
    assert of_kind(objects, "CronJob")["spec"]["suspend"] is False
    [route] = [one["spec"] for one in objects if one["kind"] == "HTTPRoute"]
    assert route["parentRefs"] == [{"name": "public", "namespace": "edge"}]
    assert route["hostnames"] == ["llm.acme.example"]
    assert app_of(objects)["deployments"][1]["user_config"] == {"channel": "canary"}
    accounts = [one["metadata"] for one in objects if one["kind"] == "ServiceAccount"]
    annotated = {one["name"]: one.get("annotations") for one in accounts}
    assert annotated["expertpool-serve"] == {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/r"}
    assert annotated["expertpool-consolidate"] is None
    assert judged(objects) == []


def test_pods_of_azure_have_the_label_the_account_and_the_identity() -> None:
    objects = set_for(
        "az://models/registry",
        serve_identity="11111111-1111",
        consolidate_identity="22222222-2222",
        storage_account="acme",
    )
    accounts = {
        one["metadata"]["name"]: one["metadata"]["annotations"]
        for one in objects
        if one["kind"] == "ServiceAccount" and "annotations" in one["metadata"]
    }
    key = "azure.workload.identity/client-id"
    assert accounts == {
        "expertpool-serve": {key: "11111111-1111"},
        "expertpool-consolidate": {key: "22222222-2222"},
    }
    job = of_kind(objects, "RayJob")["spec"]["rayClusterSpec"]["headGroupSpec"]
    head = of_kind(objects, "RayService")["spec"]["rayClusterConfig"]["headGroupSpec"]
    for group in (job, head, *groups_of(objects).values()):
        template = group["template"]
        assert template["metadata"]["labels"]["azure.workload.identity/use"] == "true"
        [container] = template["spec"]["containers"]
        environment = {each["name"]: each.get("value") for each in container["env"]}
        assert environment["AZURE_STORAGE_ACCOUNT_NAME"] == "acme"
        assert environment["EXPERTPOOL_REGISTRY"] == "az://models/registry"
    assert judged(objects) == []


def test_a_registry_on_a_volume_brings_the_volume() -> None:
    objects = set_for("/data/registry", storage_class="shared-files")
    assert of_kind(objects, "PersistentVolumeClaim")["spec"]["storageClassName"] == "shared-files"
    assert judged(objects) == []


def test_an_endpoint_without_keys_mounts_them_nowhere_needed() -> None:
    args = app_of(a_set(insecure_no_keys="true"))["args"]
    assert "keys" not in args
    assert args["insecure_no_keys"] is True


@pytest.mark.parametrize(
    ("overlay", "registry", "components", "given", "named"),
    [
        ("single", "s3://b", (), {}, "'single' is none of our overlays: cpu-dev, multi-gpu"),
        ("cpu-dev", "s3://b", ("redis",), {}, "'redis' is none of our components"),
        ("cpu-dev", "./registry", (), {}, "registry: './registry' is no address that pods"),
        ("cpu-dev", "s3://b", (), {"imag": "x"}, "imag: there is no such value; there are image"),
        ("cpu-dev", "s3://b", (), {"kuberay": "1.5.0"}, "kuberay: 1.5.0 is older than 1.5.1"),
        ("cpu-dev", "s3://b", (), {"kuberay": "new"}, "kuberay: 'new' is no version"),
        ("cpu-dev", "s3://b", (), {"engine_memory": "lots"}, "engine_memory: 'lots' is not a size"),
        ("cpu-dev", "s3://b", (), {"engines": "0"}, "engines: '0' is less than 1"),
        ("cpu-dev", "s3://b", (), {"namespace": "A b"}, "namespace: 'A b' is no name"),
        ("cpu-dev", "s3://b", (), {"image": ""}, "image: '' is empty"),
        ("single-gpu", "s3://b", (), {"engines": "2"}, "engines: 2 is more than 1"),
        ("single-gpu", "s3://b", (), {"max_engines": "2"}, "max_engines: has no effect without"),
        ("multi-gpu", "s3://b", ("gateway",), {}, "gateway: does not go with multi-gpu"),
        ("multi-gpu", "s3://b", (), {"engines": "5", "max_engines": "4"}, "max_engines: 4 is less"),
        ("multi-gpu", "s3://b", (), {"kuberay": "1.6.2"}, "kuberay: 1.6.2 is older than 1.7.0"),
        ("cpu-dev", "s3://b", (), {"hostname": "h"}, "hostname: has no effect without"),
        ("cpu-dev", "ftp://b", (), {"serve_identity": "x"}, "serve_identity: is for s3"),
        ("cpu-dev", "az://b", (), {"serve_identity": "x"}, "storage_account: give the one"),
        ("cpu-dev", "s3://b", (), {"storage_account": "x"}, "storage_account: has no effect"),
        ("cpu-dev", "az://b", (), {"storage_account": "x"}, "storage_account: has no effect"),
    ],
)
def test_what_is_unknown_or_does_not_go_together_is_refused_by_name(
    overlay: str, registry: str, components: tuple[str, ...], given: dict[str, str], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        wanted(
            family="main", registry=registry, overlay=overlay, components=components, given=given
        )


def test_a_setting_that_the_endpoint_refuses_is_refused_before_anything_is_written() -> None:
    with pytest.raises(ConfigError, match="device_memory: 'lots'"):
        a_set(device_memory="lots")
    with pytest.raises(ConfigError, match="poll_s: '60'"):
        a_set(poll_s="60")


def test_what_a_set_needs_is_said_with_the_command_that_makes_it() -> None:
    said = "\n".join(needed(a_set("single-gpu", "redis-ft", "monitoring", namespace="pool")))
    assert "KubeRay 1.5.1" in said
    assert "kubectl -n pool create secret generic expertpool-keys --from-file keys.yaml" in said
    assert "expertpool-redis --from-literal password=" in said
    assert "the operator of Prometheus" in said
    assert "expertpool:0.1.0-gpu" in said
    with_role = "\n".join(needed(set_for("s3://b/r", serve_identity="x")))
    assert "expertpool-storage" not in with_role
    assert "expertpool-redis" not in with_role


def test_quantities_and_times_are_read_as_kubernetes_reads_them() -> None:
    assert [number(each) for each in ("1280Mi", "500m", "2", 1, "1.5G")] == [
        1280 * 2**20,
        0.5,
        2.0,
        1.0,
        1.5e9,
    ]
    assert (memory(2**30), memory(2**30 + 1), memory(1)) == ("1Gi", "1025Mi", "1Mi")
    assert [duration_s(each) for each in ("610s", "1h30m", "500ms")] == [610.0, 5400.0, 0.5]
    with pytest.raises(ValueError, match="'8 GB' is no quantity"):
        number("8 GB")
    with pytest.raises(ValueError, match="'10' is no duration"):
        duration_s("10")
