"""A mistake of each kind, planted in a set without any, is found and told so that it can be mended.

A row: what is changed, and what the message must name: the field, the value, what is right.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import ConfigError
from serve_app.k8s.kustomize import Object
from serve_app.k8s.lint.manifest_files import read
from serve_app.k8s.lint.mistake import Described
from serve_app.k8s.lint.rules import findings
from serve_app.k8s.lint.schemas import Schemas, read_schemas, strict, violations
from tests.k8s.support import (
    a_set,
    change_serve_config,
    has_custom_schemas,
    judged,
    of_kind,
    planted,
)

Change = Callable[[Object], None]
CLUSTER = "spec.rayClusterConfig"
NONE = Schemas({}, core=False)


def head(service: Object) -> Any:
    return service["spec"]["rayClusterConfig"]["headGroupSpec"]


def worker(service: Object, index: int = 0) -> Any:
    return service["spec"]["rayClusterConfig"]["workerGroupSpecs"][index]


def pod(group: Any) -> Any:
    return group["template"]["spec"]


def container(group: Any) -> Any:
    return pod(group)["containers"][0]


def served(change: Callable[[Any, Any, Any], None]) -> Change:
    """A change of args, ingress and engine of the Serve config."""

    def apply(config: Any) -> None:
        [app] = config["applications"]
        change(app["args"], *app["deployments"])

    return lambda service: change_serve_config(service, apply)


def config(change: Callable[[Any], Any]) -> Change:
    return lambda service: change_serve_config(service, change)


SECURITY: list[tuple[Change, tuple[str, ...]]] = [
    (
        lambda s: pod(head(s)).update(hostNetwork=True),
        ("headGroupSpec.template.spec.hostNetwork", "True", "leave it out"),
    ),
    (
        lambda s: pod(worker(s))["volumes"].append({"name": "h", "hostPath": {"path": "/"}}),
        ("volumes[2].hostPath", "emptyDir"),
    ),
    (
        lambda s: pod(head(s))["securityContext"].update(runAsUser=0),
        ("securityContext.runAsUser is 0", "1000"),
    ),
    (
        lambda s: pod(head(s))["securityContext"].pop("runAsNonRoot"),
        ("runAsNonRoot is missing", "give true"),
    ),
    (
        lambda s: pod(head(s))["securityContext"].pop("seccompProfile"),
        ("seccompProfile.type is missing", "RuntimeDefault"),
    ),
    (
        lambda s: container(worker(s))["securityContext"].update(privileged=True),
        ("workerGroupSpecs[0].template.spec.containers[0].securityContext.privileged", "True"),
    ),
    (
        lambda s: container(worker(s))["securityContext"].pop("allowPrivilegeEscalation"),
        ("allowPrivilegeEscalation is missing", "give false"),
    ),
    (
        lambda s: container(worker(s))["securityContext"].update(capabilities={}),
        ("capabilities.drop is missing", "[ALL]"),
    ),
    (
        lambda s: container(head(s))["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
        ("capabilities.add is ['SYS_ADMIN']", "NET_BIND_SERVICE"),
    ),
    (
        lambda s: container(head(s))["ports"][0].update(hostPort=6379),
        ("ports[0].hostPort is 6379", "leave it out"),
    ),
    (
        lambda s: pod(worker(s)).update(automountServiceAccountToken=True),
        ("automountServiceAccountToken is True", "give false"),
    ),
]


def scaled_by(function: str) -> Change:
    def scale(args: Any, ingress: Any, engine: Any) -> None:
        del engine["num_replicas"]
        engine["autoscaling_config"] = {"policy": {"policy_function": function}}

    return served(scale)


SERVE: list[tuple[Change, tuple[str, ...]]] = [
    *(
        (scaled_by(f"serve_app.serving.routing.{name}"), ("cannot be imported here", word))
        for name, word in (
            ("engines:policy", "'serve_app.serving.routing.engines'"),
            ("engines_wanted:police", "'police'"),
        )
    ),
    (
        served(lambda args, ingress, engine: engine.update(max_ongoing_request=5)),
        ("deployments[1].max_ongoing_request is", "max_ongoing_requests is one"),
    ),
    (
        config(lambda c: c.update(proxy_locations="HeadOnly")),
        ("proxy_locations is", "proxy_location is one"),
    ),
    (
        served(lambda args, ingress, engine: engine.update(num_replicas=-1)),
        ("num_replicas", "is -1", "greater than 0"),
    ),
    (
        served(lambda args, ingress, engine: args.update(device_memroy="24GiB")),
        ("args.device_memroy is '24GiB'", "device_memory is one"),
    ),
    (
        served(lambda args, ingress, engine: args.update(device_memory="lots")),
        ("args", "device_memory: 'lots' is not a size"),
    ),
    (
        served(lambda args, ingress, engine: args.pop("keys")),
        ("args.keys is missing", "insecure_no_keys"),
    ),
    (
        served(lambda args, ingress, engine: args.update(keys="/secrets/keys.yaml")),
        ("args.keys is '/secrets/keys.yaml'", "no volume", "mounted"),
    ),
    (
        served(lambda args, ingress, engine: engine.update(user_config={"chanel": "stable"})),
        ("user_config", "chanel"),
    ),
    (
        config(lambda c: c["applications"][0]["deployments"].pop()),
        ("deployments Engine is missing", "restarts"),
    ),
    (
        served(lambda args, ingress, engine: engine.update(name="Engin")),
        ("deployments[1].name is 'Engin'", "Engine is one"),
    ),
    (
        lambda s: container(worker(s))["env"].append({"name": "EXPERTPOOL_FAMLY", "value": "x"}),
        ("EXPERTPOOL_FAMLY is 'x'", "family is one"),
    ),
    (
        lambda s: s["spec"].update(serveConfigV2="a: [1"),
        ("spec.serveConfigV2 is missing", "give YAML"),
    ),
]

TIMES: list[tuple[Change, tuple[str, ...]]] = [
    (
        served(lambda args, ingress, engine: engine.update(graceful_shutdown_timeout_s=30)),
        ("graceful_shutdown_timeout_s (Engine) is 30", "at least 600", "drain_s"),
    ),
    (
        served(lambda args, ingress, engine: ingress.update(graceful_shutdown_timeout_s=600)),
        ("graceful_shutdown_timeout_s (Ingress) is 600", "at least 610"),
    ),
    (
        served(lambda args, ingress, engine: ingress.pop("graceful_shutdown_timeout_s")),
        ("graceful_shutdown_timeout_s (Ingress) is missing", "at least 610"),
    ),
    (
        lambda s: container(worker(s, 1))["env"][2].update(value="600"),
        ("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S is '600'", "at least 630"),
    ),
    (
        lambda s: container(head(s))["env"].pop(2),
        ("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S is missing", "630", "Ray's own is 30 s"),
    ),
    (
        lambda s: pod(worker(s)).update(terminationGracePeriodSeconds=600),
        ("workerGroupSpecs[0].template.spec.terminationGracePeriodSeconds is 600", "at least 660"),
    ),
    (
        config(lambda c: c["http_options"].update(request_timeout_s=60)),
        ("http_options.request_timeout_s is 60", "at least 610"),
    ),
]

CAPACITY: list[tuple[Change, tuple[str, ...]]] = [
    (
        served(lambda args, ingress, engine: engine.update(num_replicas=2)),
        ("num_replicas is '2 × GPU", "1 × GPU", "maxReplicas"),
    ),
    (
        served(lambda args, ingress, engine: ingress.update(num_replicas=3)),
        ("num_replicas is '3 × ingress", "2 × ingress"),
    ),
    (
        served(lambda args, ingress, engine: args.update(device="auto")),
        ("args.device is 'auto'", "give cuda"),
    ),
    (
        served(lambda args, ingress, engine: args.pop("device")),
        ("args.device is missing", "give cuda"),
    ),
    (
        served(lambda args, ingress, engine: engine["ray_actor_options"].pop("num_gpus")),
        ("ray_actor_options.num_gpus is missing", "give 1"),
    ),
    (
        served(lambda args, ingress, engine: args.update(device="cpu")),
        ("args.device is 'cpu'", "give cuda"),
    ),
    (
        lambda s: pod(worker(s))["volumes"][0]["emptyDir"].update(sizeLimit="512Mi"),
        ("sizeLimit of /dev/shm is '512Mi'", "at least 1078Mi"),
    ),
    (
        lambda s: worker(s)["rayStartParams"].pop("object-store-memory"),
        ("sizeLimit of /dev/shm is '1280Mi'", "30 % of the pod's memory"),
    ),
    (
        lambda s: pod(head(s))["volumes"][0]["emptyDir"].update(sizeLimit="8Gi"),
        ("sizeLimit of /dev/shm is '8Gi'", "less than the pod's memory"),
    ),
]

KUBERAY: list[tuple[Change, tuple[str, ...]]] = [
    (
        lambda s: s["spec"]["rayClusterConfig"].pop("authOptions"),
        (f"{CLUSTER}.authOptions.mode is missing", "1.5.1"),
    ),
    (
        lambda s: s["spec"].update(serviceUnhealthySecondThreshold=900),
        ("serviceUnhealthySecondThreshold", "leave it out"),
    ),
    (
        lambda s: pod(worker(s))["volumes"].pop(0),
        ("volumeMounts[0].name is 'shm'", "no such volume"),
    ),
]


def said(found: list[Any]) -> list[str]:
    return [str(each) for each in found]


@pytest.mark.parametrize(("change", "named"), SECURITY + SERVE + TIMES + CAPACITY + KUBERAY)
def test_a_planted_mistake_is_named_with_its_file_object_field_and_cure(
    change: Change, named: tuple[str, ...]
) -> None:
    found = said(planted(change, known=NONE))
    assert any(all(part in each for part in named) for each in found), found
    assert all(each.startswith("set.yaml: RayService/expertpool: ") for each in found)


def test_a_policy_of_somebody_elses_that_is_not_here_is_no_mistake() -> None:
    assert planted(scaled_by("acme.scaling:policy"), known=NONE) == []


@pytest.mark.parametrize(
    ("kind", "change", "named"),
    [
        ("RayJob", lambda job: job["spec"].update(backoffLimit=2), "spec.backoffLimit is 2"),
        (
            "HTTPRoute",
            lambda route: route["spec"]["rules"][0].update(timeouts={"request": "30s"}),
            "timeouts.request is '30s': give at least 610s",
        ),
        (
            "StatefulSet",
            lambda redis: pod(redis["spec"]).pop("securityContext"),
            "spec.template.spec.containers[0].securityContext.runAsNonRoot is missing",
        ),
    ],
)
def test_mistakes_in_other_objects_are_found_too(kind: str, change: Change, named: str) -> None:
    found = said(planted(change, kind, components=("gateway", "redis-ft"), known=NONE))
    assert any(named in each for each in found), found


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda s: s["spec"]["rayClusterConfig"].pop("enableInTreeAutoscaling"),
            "enableInTreeAutoscaling is missing: give true",
        ),
        (
            lambda s: s["spec"]["upgradeStrategy"].pop("clusterUpgradeOptions"),
            "gatewayClassName is missing: name a class",
        ),
        (
            lambda s: s["spec"]["rayClusterConfig"]["autoscalerOptions"].pop("securityContext"),
            "autoscalerOptions.securityContext.allowPrivilegeEscalation is missing",
        ),
        (
            lambda s: pod(head(s)).update(automountServiceAccountToken=False),
            "automountServiceAccountToken is False: give true",
        ),
        (lambda s: worker(s).update(maxReplicas=3), "is '4 × GPU for all replicas'"),
    ],
)
def test_mistakes_of_scaling_are_found(change: Change, named: str) -> None:
    found = said(planted(change, overlay="multi-gpu", known=NONE))
    assert any(named in each for each in found), found


def test_an_upgrade_that_is_ignored_in_silence_is_a_doubt_and_no_mistake() -> None:
    objects = [Described("f", one) for one in a_set()]
    [doubt] = findings(objects, NONE)
    assert not doubt.is_error
    assert "spec.upgradeStrategy.type is 'None'" in str(doubt)


def test_two_objects_of_one_name_are_found() -> None:
    objects = a_set()
    [twice] = judged([*objects, of_kind(objects, "RayJob")], NONE)
    assert "RayJob/expertpool-consolidate: metadata.name" in str(twice)


def test_what_has_another_form_is_said_so_and_the_rest_is_judged() -> None:
    objects = a_set()
    of_kind(objects, "RayJob")["spec"] = ["x"]
    change_serve_config(
        of_kind(objects, "RayService"), lambda c: c.update(proxy_locations="HeadOnly")
    )
    found = said(judged(objects, NONE))
    assert any("RayJob/expertpool-consolidate" in each and "form" in each for each in found)
    assert any("proxy_locations" in each for each in found)


def test_an_unknown_field_of_a_custom_object_is_found_by_its_schema() -> None:
    if not has_custom_schemas():
        pytest.skip("no schemas of custom objects are beside the checkout")
    [found] = planted(lambda s: s["spec"].update(serveConfig=""))
    assert "serveConfig" in str(found)


@pytest.mark.parametrize(
    ("kind", "change", "named"),
    [
        ("CronJob", lambda one: one["spec"].update(shedule="x"), "'shedule' was unexpected"),
        (
            "RayService",
            lambda one: container(worker(one)).update(imag="x"),
            "workerGroupSpecs[0].template.spec.containers[0]",
        ),
    ],
)
def test_an_unknown_field_of_a_core_object_is_found(kind: str, change: Change, named: str) -> None:
    if importlib.util.find_spec("kubernetes_validate") is None:
        pytest.skip("kubernetes-validate is not installed")
    found = said(planted(change, kind, known=Schemas({})))
    assert any(named in each for each in found), found


def test_what_is_not_judged_is_named_with_the_way_to_judge_it() -> None:
    objects = [Described("f", one) for one in a_set("single-gpu", "gateway")]
    notices = list(Schemas({}).notices(objects))
    assert any("kubectl get crd httproutes.gateway.networking.k8s.io -o yaml" in n for n in notices)
    assert any(notice.startswith("RayService is not compared") for notice in notices)
    known = Schemas({("ray.io/v1", "RayService"): {}})
    assert not any(notice.startswith("RayService") for notice in known.notices(objects))


def test_schemas_are_read_as_a_cluster_prints_them(tmp_path: Path) -> None:
    file = tmp_path / "crd.yaml"
    file.write_text(
        "kind: List\nitems:\n- kind: CustomResourceDefinition\n  spec:\n    group: g.io\n"
        "    names: {kind: Thing}\n    versions:\n    - name: v1\n      schema:\n"
        "        openAPIV3Schema: {type: object, properties: {a: {type: string}}}\n"
    )
    schema = read_schemas([file])["g.io/v1", "Thing"]
    assert list(violations({"a": "x"}, schema)) == []
    [(path, value, words)] = violations({"a": 1}, schema)
    assert (path, value) == ("a", 1)
    assert "string" in words
    file.write_text("kind: Other\n")
    with pytest.raises(ConfigError, match=r"crd\.yaml: has no schema"):
        read_schemas([file])


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
    assert not list(violations({"b": None, "c": "50%"}, schema))
    assert not list(violations({"b": 1, "c": 5}, schema))
    assert list(violations({"b": 1, "c": 0.5}, schema))
    assert list(violations({"b": 1, "d": 5}, schema))
    assert list(violations({}, schema))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a: [", "not YAML"),
        ("a: " + "[" * 5000, "not YAML"),
        ("- 1\n", "document 1 is no object"),
        ("kind: A\n---\nmetadata: {}\n", "document 1 lacks apiVersion, metadata.name"),
    ],
)
def test_a_file_without_objects_is_refused_by_name(text: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "set.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=rf"set\.yaml: {named}"):
        read(file)
