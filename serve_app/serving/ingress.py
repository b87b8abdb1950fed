"""The ingress deployment's class. Plain: `app` binds it."""

from typing import Any

from starlette.types import ASGIApp

from serve_app.api.app import Api, build_api
from serve_app.config import Limits
from serve_app.serving.client import HandleClient


class Ingress:
    """Turns HTTP into jobs for the engine. Holds nothing that a restart would lose."""

    def __init__(self, engine: Any, limits: dict[str, Any]) -> None:
        self._client = HandleClient(engine)
        self._limits = Limits.model_validate(limits)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build_api(Api(self._client, self._limits, names_answers=False))
