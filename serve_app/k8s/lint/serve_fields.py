"""The Serve config in a RayService, by the field names of Serve and of our own builder."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from serve_app.config import ServeConfig, UserConfig
from serve_app.errors import ConfigError
from serve_app.k8s.lint.manifest_files import (
    ENGINE,
    INGRESS,
    Application,
    Group,
    application,
    groups,
    serve_config,
)
from serve_app.k8s.lint.mistake import Described, Finding

_PLACE = "spec.serveConfigV2"
_PREFIX = "EXPERTPOOL_"
_OURS = __name__.partition(".")[0]


def serve_fields(objects: Sequence[Described]) -> Iterator[Finding]:
    """Names that Serve would ignore, values that it or our builder would refuse."""
    for one in objects:
        if one.kind == "RayService":
            yield from _of_config(one)


def _of_config(one: Described) -> Iterator[Finding]:
    from ray.serve.schema import ServeDeploySchema

    try:
        config = serve_config(one)
    except (yaml.YAMLError, RecursionError) as error:
        yield one.wrong(_PLACE, None, f"give YAML: {error}")
        return
    if not isinstance(config, dict):
        yield one.wrong(_PLACE, config, "give what `serve deploy` takes")
        return
    for path, key, known in unknown_keys(config, ServeDeploySchema):
        right = f"Serve has no such field, and would ignore it{_nearest(key, known)}"
        yield one.wrong(f"{_PLACE}: {path}", key, right)
    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        yield from _refused(one, error, _PLACE)
    except (ImportError, AttributeError) as error:  # of a function that Serve reads at once
        told = one.wrong if _OURS in str(error) else one.doubtful
        yield told(_PLACE, None, f"what it names cannot be imported here: {error}")
    app = application(one)
    if app is None:
        right = "no application of it is ours (import_path: serve_app.serving.app:build)"
        yield one.doubtful(f"{_PLACE}: applications", None, right)
        return
    yield from _of_application(one, app, groups(one))


def _of_application(one: Described, app: Application, found: Sequence[Group]) -> Iterator[Finding]:
    place = f"{_PLACE}: {app.path}.args"
    told = {name: value for group in found for name, value in group.pod.environment.items()}
    from_pods = {}
    for name, value in told.items():
        if name.startswith(_PREFIX):
            setting = name.removeprefix(_PREFIX).lower()
            if setting in ServeConfig.names():
                from_pods[setting] = value
            else:
                right = f"there is no such setting{_nearest(setting, ServeConfig.names())}"
                yield one.wrong(f"environment of the pods: {name}", value, right)
    known = {*ServeConfig.names(), *ServeConfig.model_fields} - {"engine"}
    for key in app.args:
        if key not in known:
            right = f"there is no such setting{_nearest(key, known)}"
            yield one.wrong(f"{place}.{key}", app.args[key], right)
    try:
        config = ServeConfig.model_validate(
            from_pods | {key: value for key, value in app.args.items() if key in known}
        )
    except ValidationError as error:
        yield from _refused(one, error, place)
    except ConfigError as error:
        yield one.wrong(place, app.args, str(error))
    else:
        yield from _keys(one, config, place, found)
    yield from _deployments(one, app)


def _keys(
    one: Described, config: ServeConfig, place: str, found: Sequence[Group]
) -> Iterator[Finding]:
    if config.keys is None:
        if not config.insecure_no_keys:
            right = "name a keys file, or give insecure_no_keys: true; else it refuses to start"
            yield one.wrong(f"{place}.keys", None, right)
        return
    if "://" in config.keys:
        return
    for group in found:
        mounts = [
            mount.get("mountPath", "").rstrip("/") + "/"
            for _, container in group.pod.containers()
            for mount in container.get("volumeMounts") or ()
        ]
        if not any(config.keys.startswith(each) for each in mounts):
            right = f"no volume of {group.path} is mounted there"
            yield one.wrong(f"{place}.keys", config.keys, right)


def _deployments(one: Described, app: Application) -> Iterator[Finding]:
    for name in (INGRESS, ENGINE):
        if name not in app.deployments:
            right = "list it: a deployment that is left out restarts when another one changes"
            yield one.wrong(f"{_PLACE}: {app.path}.deployments {name}", None, right)
    for name, (path, deployment) in app.deployments.items():
        if name not in (INGRESS, ENGINE):
            right = f"the application has {INGRESS} and {ENGINE}{_nearest(name, (INGRESS, ENGINE))}"
            yield one.wrong(f"{_PLACE}: {path}.name", name, right)
        if name == ENGINE and "user_config" in deployment:
            try:
                UserConfig.model_validate(deployment["user_config"])
            except ValidationError as error:
                yield from _refused(one, error, f"{_PLACE}: {path}.user_config")


def unknown_keys(
    value: object, model: Any, path: str = ""
) -> Iterator[tuple[str, str, Iterable[str]]]:
    """Keys that the pydantic models of `model` lack: where each is, and what is known there."""
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from unknown_keys(one, model, f"{path}[{index}]")
        return
    if not isinstance(value, dict) or not issubclass(model, BaseModel):
        return
    for key, inside in value.items():
        place = f"{path}.{key}" if path else str(key)
        if key not in model.model_fields:
            yield place, str(key), model.model_fields
        elif nested := _model_of(model.model_fields[key].annotation):
            yield from unknown_keys(inside, nested, place)


def _model_of(annotation: Any) -> Any:
    """The pydantic model inside an annotation such as `list[Model] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    arguments = getattr(annotation, "__args__", ())
    return next((found for one in arguments if (found := _model_of(one))), None)


def _refused(one: Described, error: ValidationError, place: str) -> Iterator[Finding]:
    for each in error.errors(include_url=False):
        path = ".".join(str(part) for part in each["loc"])
        field = f"{place}: {path}" if path else place
        value = None if isinstance(each["input"], dict) else each["input"]
        yield one.wrong(field, value, each["msg"].removeprefix("Value error, "))


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; {close[0]} is one" if close else ""
