"""Times that are too short for the longest request. `serving/graces.py` says how they follow."""

from collections.abc import Iterator, Sequence

from serve_app.config import ServeConfig
from serve_app.k8s.lint.manifest_files import ENGINE, INGRESS, Application, application, groups
from serve_app.k8s.lint.mistake import Described, Finding
from serve_app.k8s.quantity import duration_s
from serve_app.serving.graces import NODE_VARIABLE, Graces, graces_of

_RAY_DRAIN_S = 30.0
"""Ray 2.60, where `NODE_VARIABLE` is not set."""
_POD_S = 30
_SERVE_S = 20.0
"""`graceful_shutdown_timeout_s`, where a deployment sets none."""


def graces(objects: Sequence[Described]) -> Iterator[Finding]:
    """Each time that is shorter than what it must outlast."""
    for one in objects:
        app = application(one)
        if app is None:
            continue
        default = ServeConfig.model_fields["drain_s"].default
        drain_s = app.args.get("drain_s", default)
        engine_s = _grace(app, ENGINE)
        try:
            derived = graces_of(max(float(drain_s), engine_s))
        except (TypeError, ValueError):
            continue  # serve_fields says so
        why = f"the longest request is {derived.engine_s:g} s (drain_s, or the engine's grace)"
        if engine_s < float(drain_s):
            yield _of_deployment(one, app, ENGINE, float(drain_s), f"drain_s is {drain_s} s")
        if _grace(app, INGRESS) < derived.ingress_s:
            yield _of_deployment(one, app, INGRESS, derived.ingress_s, why)
        yield from _of_pods(one, derived, why)
        yield from _of_proxies(one, app, derived, why)
        yield from _of_routes(one, objects, derived, why)


def _grace(app: Application, name: str) -> float:
    _, deployment = app.deployments.get(name, ("", {}))
    return float(deployment.get("graceful_shutdown_timeout_s", _SERVE_S))


def _of_deployment(
    one: Described, app: Application, name: str, least_s: float, why: str
) -> Finding:
    path, deployment = app.deployments.get(name, (app.path, {}))
    field = f"spec.serveConfigV2: {path}.graceful_shutdown_timeout_s ({name})"
    value = deployment.get("graceful_shutdown_timeout_s")
    return one.wrong(field, value, f"give at least {least_s:g}: {why}")


def _of_pods(one: Described, derived: Graces, why: str) -> Iterator[Finding]:
    for group in groups(one):
        path = group.pod.path
        given = group.pod.environment.get(NODE_VARIABLE)
        if float(given or _RAY_DRAIN_S) < derived.node_s:
            right = f"give at least {derived.node_s:g}: {why}, and Ray's own is 30 s"
            yield one.wrong(f"{path}.containers[0].env {NODE_VARIABLE}", given, right)
        granted = group.pod.spec.get("terminationGracePeriodSeconds")
        if (_POD_S if granted is None else granted) < derived.pod_s:
            field = f"{path}.terminationGracePeriodSeconds"
            yield one.wrong(field, granted, f"give at least {derived.pod_s}: {why}")


def _of_proxies(one: Described, app: Application, derived: Graces, why: str) -> Iterator[Finding]:
    limit = (app.config.get("http_options") or {}).get("request_timeout_s")
    if limit is not None and 0 < float(limit) < derived.balancer_s:
        field = "spec.serveConfigV2: http_options.request_timeout_s"
        yield one.wrong(field, limit, f"leave it out, or give at least {derived.balancer_s}: {why}")


def _of_routes(
    service: Described, objects: Sequence[Described], derived: Graces, why: str
) -> Iterator[Finding]:
    """Of the routes to the endpoint. A route without times takes those of its gateway."""
    backend = f"{service.content['metadata']['name']}-serve-svc"
    for one in objects:
        if one.kind != "HTTPRoute":
            continue
        for index, rule in enumerate(one.content["spec"].get("rules") or ()):
            if backend not in [each.get("name") for each in rule.get("backendRefs") or ()]:
                continue
            for key in ("request", "backendRequest"):
                given = (rule.get("timeouts") or {}).get(key)
                if given is None or _is_short(given, derived.balancer_s):
                    field = f"spec.rules[{index}].timeouts.{key}"
                    yield one.wrong(field, given, f"give at least {derived.balancer_s}s: {why}")


def _is_short(given: object, least_s: float) -> bool:
    try:
        return 0 < duration_s(given) < least_s
    except ValueError:
        return True
