"""The ingress deployment's class. Plain: `app` binds it."""

import asyncio
import time
import uuid
from collections.abc import Mapping
from time import monotonic
from typing import Any

from starlette.types import ASGIApp

from serve_app.api.routes import Api, build_api
from serve_app.config import ServeConfig
from serve_app.errors import ServingError
from serve_app.serving.listener import Listener
from serve_app.serving.metrics.http_counts import HttpCounts
from serve_app.serving.metrics.metrics_pages import ingress_families, page
from serve_app.serving.transport.client import HandleClient
from serve_app.tenants.keys_store import KeysStore
from serve_app.tenants.keys_watch import KeysWatch
from serve_app.tenants.limits.lease import Lessor
from serve_app.tenants.limits.local_lessor import LocalLessor
from serve_app.tenants.usage_log import UsageLog
from serve_app.tenants.usage_record import UsageRecord


class Ingress:
    """Turns HTTP into jobs for the engine. Holds nothing that a restart would lose.

    Requests come from Ray Serve's proxies, or directly from clients if it listens itself: a proxy
    in between costs several times as much as everything else here.
    """

    _usage: UsageLog | None = None
    """Serve has an ingress that could not be made write its records, too."""

    def __init__(self, engine: Any, config: ServeConfig, lessor: Lessor | None = None) -> None:
        """engine: a handle to its deployment.   lessor: of tenants' limits; None: this ingress is
        the only one.

        Raises BadKeys; StorageFailed for an address of records that cannot be used.
        """
        self._client = HandleClient(engine)
        self._config = config
        self._lessor = LocalLessor() if lessor is None else lessor
        keys, usage = config.keys, config.usage
        self._keys = None
        if keys is not None:
            has_records = usage is not None
            self._keys = KeysWatch(KeysStore(keys), monotonic, has_records=has_records)
        name = uuid.uuid4().hex[:8]
        self._usage = None if usage is None else UsageLog(usage, name, time.time)
        self.http_counts = HttpCounts(name)
        self._listener: Listener | None = None

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """`host` and `port`: where to listen. Raises ConfigError if it cannot."""
        if self._listener is not None:
            await self._listener.aclose()
        app = build_api(self._api(names_answers=True))
        self._listener = Listener(app, user_config["host"], user_config["port"])
        await self._listener.start()

    async def check_health(self) -> None:
        """Raises if it should listen but does not."""
        ended = self._listener is not None and not self._listener.is_serving
        if ended and not self._client.is_draining:
            raise ServingError("the ingress no longer listens")

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build_api(self._api(names_answers=False))

    def _api(self, *, names_answers: bool) -> Api:
        return Api(
            self._client,
            self._config.limits,
            self._keys,
            self._lessor,
            record=_keep_no_record if self._usage is None else self._usage.add,
            own_metrics=self._own_metrics,
            count=self.http_counts.count,
            names_answers=names_answers,
            keep_alive_s=self._config.keep_alive_s,
            origins=self._config.allow_origin,
            has_docs=self._config.docs,
        )

    def _own_metrics(self) -> str:
        broken = None if self._keys is None else self._keys.is_broken
        num_lost = None if self._usage is None else self._usage.num_lost
        return page(ingress_families(broken, num_lost, self.http_counts.values()))

    async def drain(self) -> None:
        """Take no new requests. Returns when all have ended; those that last too long are ended."""
        await self._client.drain(self._config.drain_s)
        if self._listener is not None:
            await self._listener.aclose()
        await self.write_usage()

    async def write_usage(self) -> None:
        """Returns when all records of usage are where they belong."""
        if self._usage is not None:
            await asyncio.to_thread(self._usage.flush)


def _keep_no_record(_: UsageRecord) -> None:
    """There is nowhere to write it."""
