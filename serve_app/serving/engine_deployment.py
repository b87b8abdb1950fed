"""The class that Ray Serve constructs for an engine. Light: it imports the engine when it starts.

Nothing is answered while an engine starts, and most of a start is importing. So the text process
begins first: what it imports, it imports on another core.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
from ray import serve

from serve_app.config import ServeConfig
from serve_app.errors import where
from serve_app.garbage import set_aside
from serve_app.phase import phase
from serve_app.serving.actor_neighbours import ActorNeighbours
from serve_app.serving.loopback import listen_where_ray_does
from serve_app.serving.metrics.metrics_port import listen
from serve_app.serving.metrics.ray_sums import carry_often
from serve_app.serving.replica.neighbours import Alone, Neighbours
from serve_app.serving.terminal import log_as
from serve_app.text.answers.template_file import read_template_file
from serve_app.text.process.text_client import TextClient
from serve_app.text.process.text_process import TextProcess
from serve_app.text.template_limits import TemplateLimits

if TYPE_CHECKING:
    from serve_app.serving.replica.replica import EngineReplica

_log = logging.getLogger(__name__)


class EngineDeployment:
    """An `EngineReplica`, from a plain dict: whatever else Serve asks for is the replica's."""

    _replica: "EngineReplica | None" = None
    _beside: tuple[asyncio.Task[Any], ...] = ()

    def __init__(self, config: dict[str, Any], *, waits: bool) -> None:
        """waits: whether the first `reconfigure` returns when a release is served, so that Serve
        sends no request before. Where there is one replica alone, it had better say itself what it
        waits for.
        """
        self._waits = waits
        self._begun = time.monotonic()
        listen_where_ray_does()
        self._config = ServeConfig.model_validate(config)
        log_as("engine", self._config.log_level, self._config.log_format, self._config.log_output)

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Serve calls this once before it asks for anything else."""
        is_first = self._replica is None
        if self._replica is None:
            self._replica = await self._started()
        await self._replica.reconfigure(user_config)
        if is_first and self._waits:
            await self._replica.until_serving()

    async def _started(self) -> "EngineReplica":
        limits = TemplateLimits(self._config.template_s, self._config.template_bytes)
        path = self._config.response_template
        text = TextClient(
            partial(TextProcess.start, limits=limits),
            response_template=None if path is None else read_template_file(path),
        )
        text.begin()
        with phase("importing torch and transformers", _log.info) as so_far:
            await asyncio.to_thread(_import_engine)  # the loop starts the text process meanwhile
        _log.info("torch and transformers are imported after %.1f s", so_far())
        from serve_app.serving.assembly import real_parts
        from serve_app.serving.replica.replica import EngineReplica
        from serve_app.serving.spare import keep_spare

        context = serve.get_replica_context()
        name = context.replica_id.unique_id
        parts = real_parts(self._config, text, self._neighbours(context.app_name, name))
        replica = EngineReplica(self._config, parts, begun=self._begun, name=name)
        started = [keep_spare(), *self._telling(replica)]
        self._beside = tuple(asyncio.create_task(each) for each in started)
        for task in self._beside:
            task.add_done_callback(_tell_if_broken)
        return replica

    def _neighbours(self, application: str, replica: str) -> Neighbours:
        """Where there is one replica alone, it waits for nobody."""
        if not self._waits:
            return Alone()
        return ActorNeighbours(application, replica, self._config.usage)

    def _telling(self, replica: "EngineReplica") -> Iterator[Coroutine[Any, Any, Any]]:
        """What makes its metrics known, beside its answers to ingresses."""
        config, view = self._config, replica.view
        if config.metrics_port is not None:
            yield listen(ray.util.get_node_ip_address(), config.metrics_port, view.families)
        if config.ray_metrics:
            yield carry_often(replica.name, view.figures)

    async def record_routing_stats(self) -> dict[str, Any]:
        """Serve asks often, and tells the router of each ingress: see `residency_router`."""
        return {} if self._replica is None else self._replica.view.facts().tell()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve asks if there is an `autoscaling_config`: see `engines_wanted`."""
        demand = None if self._replica is None else self._replica.view.demand()
        return {} if demand is None else demand.told()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._replica, name)

    async def __del__(self) -> None:
        """Serve awaits this when the replica stops."""
        for task in self._beside:
            task.cancel()
        if self._replica is not None:
            await self._replica.aclose()


def _tell_if_broken(task: "asyncio.Task[Any]") -> None:
    """Requests are answered without it."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _log.error("what runs beside the engine has ended: %s", where(error))


def _import_engine() -> None:
    import serve_app.serving.assembly  # noqa: F401

    set_aside()
