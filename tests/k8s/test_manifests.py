"""The Kustomize base renders, and what it renders is valid."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.schemas import Json, load, problems, strict, unknown_keys

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT.parent / "shared" / "k8s"
DEPRECATED = ("serviceUnhealthySecondThreshold", "deploymentUnhealthySecondThreshold")


@pytest.fixture(scope="module")
def rendered() -> list[Json]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: the base cannot be rendered")
    done = subprocess.run(
        ["kubectl", "kustomize", str(ROOT / "k8s" / "base")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def custom(rendered: list[Json]) -> dict[str, Json]:
    return {one["kind"]: one for one in rendered if one["apiVersion"].startswith("ray.io/")}


@pytest.fixture(scope="module")
def serve_config(custom: dict[str, Json]) -> Any:
    return yaml.safe_load(custom["RayService"]["spec"]["serveConfigV2"])


def pods(value: object) -> list[Json]:
    """Every pod spec below `value`."""
    if isinstance(value, list):
        return [pod for one in value for pod in pods(one)]
    if not isinstance(value, dict):
        return []
    here = [value] if "containers" in value else []
    return here + [pod for one in value.values() for pod in pods(one)]


@pytest.mark.parametrize("kind", ["RayService", "RayJob"])
def test_custom_objects_satisfy_their_schema_strictly(kind: str, custom: dict[str, Json]) -> None:
    file = SCHEMAS / f"{kind.lower()}s.v1.json"
    if not file.is_file():
        pytest.skip(f"no schema of {kind} beside the checkout")
    named, schema = load(file)
    assert named == kind
    assert problems(custom[kind], schema) == []


def test_a_misspelt_key_would_be_found(custom: dict[str, Json]) -> None:
    file = SCHEMAS / "rayservices.v1.json"
    if not file.is_file():
        pytest.skip("no schema of RayService beside the checkout")
    service = custom["RayService"]
    wrong = service | {"spec": service["spec"] | {"serveConfig": ""}}
    assert any("serveConfig" in one for one in problems(wrong, load(file)[1]))


def test_nothing_is_rendered_twice_and_every_object_has_the_namespace(
    rendered: list[Json],
) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in rendered]
    assert len(set(names)) == len(names)
    for one in rendered:
        if one["kind"] != "Namespace":
            assert one["metadata"]["namespace"] == "expertpool", one["kind"]


def test_every_pod_runs_with_least_privilege(custom: dict[str, Json]) -> None:
    found = pods(list(custom.values()))
    assert len(found) == 5
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_every_volume_that_is_mounted_exists(custom: dict[str, Json], rendered: list[Json]) -> None:
    claims = {one["metadata"]["name"] for one in rendered if one["kind"].startswith("Persistent")}
    for pod in pods(list(custom.values())):
        volumes = {one["name"]: one for one in pod.get("volumes", [])}
        for container in pod["containers"]:
            assert {m["name"] for m in container.get("volumeMounts", [])} <= set(volumes)
        for volume in volumes.values():
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in claims


def test_heads_run_no_work_and_no_deprecated_field_is_set(custom: dict[str, Json]) -> None:
    service, job = custom["RayService"]["spec"], custom["RayJob"]["spec"]
    for cluster in (service["rayClusterConfig"], job["rayClusterSpec"]):
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert not set(DEPRECATED) & set(service)


def test_secrets_are_referred_to_and_never_held(rendered: list[Json]) -> None:
    assert "Secret" not in {one["kind"] for one in rendered}


def test_serve_knows_every_key_of_its_config(serve_config: Json) -> None:
    from ray.serve.schema import ServeDeploySchema

    assert list(unknown_keys(serve_config, ServeDeploySchema)) == []
    ServeDeploySchema.model_validate(serve_config)


def test_the_cluster_serves_the_application_that_is_deployed_locally(serve_config: Json) -> None:
    from ray.serve.schema import ServeDeploySchema

    local = yaml.safe_load((ROOT / "deploy" / "local.yaml").read_text())
    assert list(unknown_keys(local, ServeDeploySchema)) == []
    [here], [there] = local["applications"], serve_config["applications"]
    assert here["import_path"] == there["import_path"] == "serve_app.serving.app:build"
    names = [[one["name"] for one in app["deployments"]] for app in (here, there)]
    assert names[0] == names[1]


def test_operators_settings_in_the_serve_config_are_valid(serve_config: Json) -> None:
    from serve_app.config import ServeConfig, UserConfig

    [application] = serve_config["applications"]
    ServeConfig.model_validate(application["args"])
    configs = [one["user_config"] for one in application["deployments"] if "user_config" in one]
    assert configs
    for config in configs:
        UserConfig.model_validate(config)


def test_a_schema_with_a_default_or_a_null_is_read_as_kubernetes_reads_it() -> None:
    schema = strict(
        {
            "type": "object",
            "required": ["a", "b"],
            "properties": {
                "a": {"type": "string", "default": "x"},
                "b": {"type": "integer", "nullable": True},
                "c": {"x-kubernetes-int-or-string": True},
            },
        }
    )
    assert problems({"b": None, "c": "50%"}, schema) == []
    assert problems({"b": 1, "c": 5}, schema) == []
    assert problems({"b": 1, "c": 0.5}, schema)
    assert problems({"b": 1, "d": 5}, schema)
    assert problems({}, schema)
