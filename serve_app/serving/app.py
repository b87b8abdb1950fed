"""Turns the classes into Ray Serve deployments. The only place that wraps and binds them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from serve_app.config import ServeConfig, UserConfig
from serve_app.errors import ConfigError
from serve_app.serving.engine_deployment import EngineDeployment
from serve_app.serving.graces import graces_of
from serve_app.serving.ingress_deployment import IngressDeployment
from serve_app.tenants.keys_store import KeysStore
from serve_app.text.answers.template_file import read_template_file

INGRESS, ENGINE = "Ingress", "Engine"
_MAX_ONGOING = 10_000
"""Far above what the replica admits: its refusal has OpenAI's form, which Serve's has not."""
_CHECK_S = 1.0
"""How often Serve looks whether a replica lives; it starts another for one that has died."""
_SERVES_LOGS = {"log_level": "WARNING", "enable_access_log": False}
"""Of Serve itself: a line for each call would stand beside ours for each request."""
_ROUTER: dict[str, Any] = {
    "request_router_class": "serve_app.serving.routing.residency_router.ResidencyRouter",
    "request_routing_stats_period_s": 0.5,
    "request_routing_stats_timeout_s": 5.0,
}
"""Where there may be several engines."""
_ENV_PREFIX = "EXPERTPOOL_"
_IN_A_CLUSTER = {"metrics_port": 9464, "ray_metrics": True, "log_format": "json"}
"""Defaults where Ray Serve's own tools start an endpoint. The port is OpenTelemetry's."""


def build(args: Mapping[str, Any] | None = None) -> Application:
    """The application of a Serve config file: `args` are the fields of ServeConfig.

    What `args` leaves out comes from the environment, under its name in capitals after
    `EXPERTPOOL_` (EXPERTPOOL_DEVICE_MEMORY=24GiB), or is the default: that of a cluster, if it has
    one of its own. Raises: see `ServeConfig`;
    ConfigError without keys, unless `insecure_no_keys` is set, and for a broken keys file or
    response template.
    """
    config = config_of(args or {})
    if config.keys is None and not config.insecure_no_keys:
        raise ConfigError(
            "there is no keys file, so anybody could use the endpoint: set `keys` to the address of"
            " one (`expertpool keys new` makes it), or `insecure_no_keys: true`"
        )
    if config.keys is not None:
        KeysStore(config.keys).read_served(has_records=config.usage is not None)
    if config.response_template is not None:
        read_template_file(config.response_template)
    return application(config)


def config_of(args: Mapping[str, Any]) -> ServeConfig:
    """The configuration that `build` uses, with absolute paths."""
    return with_absolute_paths(
        ServeConfig.model_validate({**_IN_A_CLUSTER, **_environment(), **args})
    )


def with_absolute_paths(config: ServeConfig) -> ServeConfig:
    """Replicas may have another working directory."""
    names = ("registry", "keys", "usage", "response_template")
    paths = {name: getattr(config, name) for name in names}
    absolute = {
        name: str(Path(path).resolve())
        for name, path in paths.items()
        if path is not None and "://" not in path
    }
    return config.model_copy(update=absolute)


def application(
    config: ServeConfig,
    user: UserConfig | None = None,
    listen: tuple[str, int] | None = None,
    ingresses: int = 1,
) -> Application:
    """Ingress and engine, bound. `user`: by default, the channel `stable`.

    listen: host and port on which the ingresses themselves answer, on a single machine. Otherwise
    requests come through Ray Serve's proxies.   ingresses: how many.
    """
    target = (user or UserConfig(channel="stable")).model_dump(exclude_none=True)
    actor = {"num_cpus": 0, "num_gpus": _num_gpus(config.engine.device)}
    graces = graces_of(config.drain_s)
    engine: Any = serve.deployment(
        EngineDeployment,
        name=ENGINE,
        num_replicas=1,
        max_ongoing_requests=_MAX_ONGOING,
        user_config=target,
        ray_actor_options=actor,
        logging_config=_SERVES_LOGS,
        graceful_shutdown_timeout_s=graces.engine_s,
        health_check_period_s=_CHECK_S,
        health_check_timeout_s=30,
        request_router_config=RequestRouterConfig(**(_ROUTER if listen is None else {})),
    )
    ingress: Any = serve.deployment(
        serve.ingress()(IngressDeployment),
        name=INGRESS,
        num_replicas=ingresses,
        max_ongoing_requests=_MAX_ONGOING,
        user_config=None if listen is None else {"host": listen[0], "port": listen[1]},
        ray_actor_options={"num_cpus": 0},
        logging_config=_SERVES_LOGS,
        graceful_shutdown_timeout_s=graces.ingress_s,
        health_check_period_s=_CHECK_S,
    )
    plain = config.model_dump(mode="json")
    app: Application = ingress.bind(engine.bind(plain, waits=listen is None), plain)
    return app


def _num_gpus(wanted: str) -> int:
    """How many the engine reserves. Torch, which takes long to import, is not asked if Ray, which
    runs already, has found none.
    """
    if wanted == "cpu" or (
        wanted == "auto" and ray.is_initialized() and not ray.cluster_resources().get("GPU")
    ):
        return 0
    from serve_app.engine.device.device import resolve_device

    return 1 if resolve_device(wanted) == "cuda" else 0


def _environment() -> dict[str, str]:
    given = {name: os.environ.get(_ENV_PREFIX + name.upper()) for name in ServeConfig.names()}
    return {name: value for name, value in given.items() if value}
