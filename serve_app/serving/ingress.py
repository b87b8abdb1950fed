"""The ingress deployment's class. Plain: `app` binds it."""

from collections.abc import Mapping
from time import monotonic
from typing import Any

from starlette.types import ASGIApp

from serve_app.api.routes import Api, build_api
from serve_app.config import RequestLimits
from serve_app.errors import ServingError
from serve_app.serving.listener import Listener
from serve_app.serving.transport.client import HandleClient
from serve_app.tenants.keys_store import KeysStore
from serve_app.tenants.keys_watch import KeysWatch


class Ingress:
    """Turns HTTP into jobs for the engine. Holds nothing that a restart would lose.

    Requests come from Ray Serve's proxies, or directly from clients if it listens itself: a proxy
    in between costs several times as much as everything else here.
    """

    def __init__(self, engine: Any, limits: dict[str, Any], keys: str | None = None) -> None:
        """keys: the address of the keys file, if there is one. Raises BadKeys."""
        self._client = HandleClient(engine)
        self._limits = RequestLimits.model_validate(limits)
        self._keys = None if keys is None else KeysWatch(KeysStore(keys), monotonic)
        self._listener: Listener | None = None

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """`host` and `port`: where to listen. Raises ConfigError if it cannot."""
        if self._listener is not None:
            await self._listener.aclose()
        app = build_api(Api(self._client, self._limits, self._keys))
        self._listener = Listener(app, user_config["host"], user_config["port"])
        await self._listener.start()

    async def check_health(self) -> None:
        """Raises if it should listen but does not."""
        if self._listener is not None and not self._listener.is_serving:
            raise ServingError("the ingress no longer listens")

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build_api(Api(self._client, self._limits, self._keys, names_answers=False))
