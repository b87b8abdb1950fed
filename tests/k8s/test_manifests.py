"""What is in the sets: every one of them is without mistakes, with every component."""

from typing import Any

import pytest
import yaml

from serve_app.k8s.kustomize import Object, names_of
from serve_app.k8s.lint.manifest_files import pods
from serve_app.monitoring.monitoring_files import monitoring_files
from serve_app.serving.app import config_of
from tests.k8s.support import ROOT, a_set, judged, of_kind, schemas

OVERLAYS = names_of("overlays")
BESIDE = ("redis-ft", "monitoring", "network")
PART_OF = {"app.kubernetes.io/part-of": "expertpool"}


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    route = () if request.param == "multi-gpu" else ("gateway",)
    return a_set(request.param, *BESIDE, *route)


def serve_config(objects: list[Object]) -> Any:
    return yaml.safe_load(of_kind(objects, "RayService")["spec"]["serveConfigV2"])


def test_every_overlay_with_every_component_is_without_mistakes(objects: list[Object]) -> None:
    assert judged(objects, schemas(core=True)) == []


@pytest.mark.parametrize("component", ["bucket-s3", "bucket-gcs", "bucket-azure", "rwx-volume"])
def test_wherever_the_registry_is_there_are_no_mistakes(component: str) -> None:
    given = {"storage_account": "acme"} if component == "bucket-azure" else {}
    assert judged(a_set("single-gpu", component, **given)) == []


def test_every_object_is_in_the_namespace(objects: list[Object]) -> None:
    for one in objects:
        if one["kind"] != "Namespace":
            assert one["metadata"]["namespace"] == "expertpool", one["kind"]


def test_secrets_are_referred_to_and_never_held(objects: list[Object]) -> None:
    assert "Secret" not in {one["kind"] for one in objects}


def test_only_what_asks_the_api_has_a_token() -> None:
    with_token = {
        (one["kind"], pod.path.split(".")[-3])
        for overlay in OVERLAYS
        for one in a_set(overlay)
        for pod in pods(one)
        if pod.spec["automountServiceAccountToken"]
    }
    assert with_token == {("CronJob", "spec"), ("RayService", "headGroupSpec")}


def test_the_head_of_the_endpoint_runs_no_work(objects: list[Object]) -> None:
    head = of_kind(objects, "RayService")["spec"]["rayClusterConfig"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"


def test_two_ingresses_are_on_two_nodes_and_a_drain_takes_one() -> None:
    objects = a_set()
    [app] = serve_config(objects)["applications"]
    ingress = app["deployments"][0]
    assert (ingress["num_replicas"], ingress["max_replicas_per_node"]) == (2, 1)
    cluster = of_kind(objects, "RayService")["spec"]["rayClusterConfig"]
    [group] = [each for each in cluster["workerGroupSpecs"] if each["groupName"] == "ingress"]
    [spread] = group["template"]["spec"]["topologySpreadConstraints"]
    assert spread["whenUnsatisfiable"] == "DoNotSchedule"
    selectors = {
        one["metadata"]["name"]: one["spec"]["selector"]["matchLabels"]
        for one in objects
        if one["kind"] == "PodDisruptionBudget"
    }
    assert selectors["expertpool-ingress"]["ray.io/group"] == group["groupName"]


def test_refused_input_is_not_tried_again() -> None:
    objects = a_set()
    assert of_kind(objects, "RayJob")["spec"]["backoffLimit"] == 0
    run = of_kind(objects, "CronJob")["spec"]["jobTemplate"]["spec"]
    rule = run["podFailurePolicy"]["rules"][0]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2])
    assert run["backoffLimit"] == 2


def test_policies_open_requests_metrics_and_names_and_nothing_else_from_outside() -> None:
    policies = {
        one["metadata"]["name"]: one["spec"]
        for one in a_set("single-gpu", "network")
        if one["kind"] == "NetworkPolicy"
    }
    nothing = policies["expertpool-nothing"]
    assert nothing["podSelector"] == {}
    assert set(nothing["policyTypes"]) == {"Ingress", "Egress"}
    opened = {
        (name, port["port"])
        for name, spec in policies.items()
        for rule in spec.get("ingress", ())
        for port in rule.get("ports", ())
    }
    assert opened == {
        ("expertpool-operator", 8265),
        ("expertpool-operator", 8000),
        ("expertpool-requests", 8000),
        ("expertpool-metrics", "metrics"),
        ("expertpool-metrics", "engine-metrics"),
    }
    [inside] = policies["expertpool-inside"]["ingress"]
    assert inside["from"] == [{"podSelector": {"matchLabels": PART_OF}}]


def test_the_set_has_all_dashboards_that_there_are() -> None:
    dashboards = of_kind(a_set("single-gpu", "monitoring"), "ConfigMap")["data"]
    made = {name: text for name, text in monitoring_files().items() if name.endswith(".json")}
    assert dashboards == made


def test_prometheus_reads_a_port_that_the_engine_answers_at() -> None:
    objects = a_set("single-gpu", "monitoring")
    cluster = of_kind(objects, "RayService")["spec"]["rayClusterConfig"]
    [engine] = [each for each in cluster["workerGroupSpecs"] if each["groupName"] == "engine"]
    ports = engine["template"]["spec"]["containers"][0]["ports"]
    named = {each["name"]: each["containerPort"] for each in ports}
    read = [each["port"] for each in of_kind(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]]
    assert set(read) <= set(named)
    assert named["engine-metrics"] == config_of({"insecure_no_keys": True}).metrics_port


def test_every_pod_that_policies_select_has_their_labels() -> None:
    for one in a_set("single-gpu", "redis-ft"):
        for path, template in templates(one):
            labels = template.get("metadata", {}).get("labels", {})
            assert PART_OF.items() <= labels.items(), path


def templates(value: object, path: str = "") -> list[tuple[str, Object]]:
    """Every template of a pod below `value`."""
    if isinstance(value, list):
        return [found for one in value for found in templates(one, path)]
    if not isinstance(value, dict):
        return []
    here = [(path, value)] if "containers" in (value.get("spec") or {}) else []
    return here + [found for key, one in value.items() for found in templates(one, f"{path}.{key}")]


def test_the_cluster_serves_the_application_that_is_deployed_locally() -> None:
    from ray.serve.schema import ServeDeploySchema

    from serve_app.k8s.lint.serve_fields import unknown_keys

    local = yaml.safe_load((ROOT / "deploy" / "local.yaml").read_text())
    assert list(unknown_keys(local, ServeDeploySchema)) == []
    [here], [there] = local["applications"], serve_config(a_set())["applications"]
    assert here["import_path"] == there["import_path"] == "serve_app.serving.app:build"
    names = [[one["name"] for one in app["deployments"]] for app in (here, there)]
    assert names[0] == names[1]


def test_the_image_has_the_version_of_the_package() -> None:
    from importlib.metadata import version

    objects = a_set("cpu-dev")
    [container] = of_kind(objects, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"][
        "containers"
    ]
    assert container["image"] == f"expertpool:{version('expertpool')}-cpu"


def test_the_cluster_runs_the_ray_that_is_installed() -> None:
    import ray

    cluster = of_kind(a_set(), "RayService")["spec"]["rayClusterConfig"]
    assert cluster["rayVersion"] == ray.__version__
