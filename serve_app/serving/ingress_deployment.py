"""The class that Ray Serve constructs for an ingress. Imports neither the engine nor models."""

import asyncio
from typing import Any

from ray import serve

from serve_app.config import ServeConfig
from serve_app.garbage import set_aside
from serve_app.serving.ingress import Ingress
from serve_app.serving.lease_actor import ActorLessor
from serve_app.serving.loopback import listen_where_ray_does
from serve_app.serving.metrics.ray_sums import carry_often
from serve_app.serving.terminal import log_as
from serve_app.tenants.keys_store import KeysStore
from serve_app.tenants.limits.lease import Lessor


class IngressDeployment(Ingress):
    """An Ingress, from a handle and a plain dict."""

    _carrying: "asyncio.Task[None] | None" = None

    def __init__(self, engine: Any, config: dict[str, Any]) -> None:
        listen_where_ray_does()
        checked = ServeConfig.model_validate(config)
        log_as("ingress", checked.log_level, checked.log_format, checked.log_output)
        super().__init__(engine, checked, _lessor(checked))
        counts = self.http_counts
        if checked.ray_metrics:
            self._carrying = asyncio.get_running_loop().create_task(
                carry_often(counts.name, counts.figures)
            )
        set_aside()

    async def __del__(self) -> None:
        """Ray Serve awaits this when the replica stops."""
        if self._carrying is not None:
            self._carrying.cancel()
        await self.write_usage()


def _lessor(config: ServeConfig) -> Lessor | None:
    """Shared by all ingresses of the application. Raises BadKeys."""
    if config.keys is None:
        return None
    application = serve.get_replica_context().app_name
    has_budget = KeysStore(config.keys).read().has_budget
    return ActorLessor(application, config.usage, reads_month=has_budget)
