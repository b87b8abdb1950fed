"""The ingress deployment's class and its way to the engine. Plain: `app` binds it."""

import logging
from collections.abc import AsyncGenerator
from typing import Any, cast

from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from starlette.types import ASGIApp

from serve_app.api.app import Api, build_api
from serve_app.api.errors import ApiError, internal, loading, overloaded
from serve_app.api.wire import (
    DetokenizeJob,
    ErrorItem,
    Item,
    Job,
    Models,
    Status,
    Text,
    TokenizeJob,
    Tokens,
)
from serve_app.config import Limits

_log = logging.getLogger(__name__)


class HandleClient:
    """`EngineClient` over a handle to the engine deployment."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._streaming = handle.options(stream=True)

    async def generate(self, job: Job) -> AsyncGenerator[list[Item], None]:
        """Trouble between the processes is a refusal at first, and an error in the middle later."""
        stream = self._streaming.generate.remote(job)
        begun = ended = False
        try:
            async for batch in stream:
                begun = True
                yield cast("list[Item]", batch)
            ended = True
        except (RayError, RayServeException) as error:
            _log.warning("job %s: %s", job["id"], error)
            ended = True
            yield [(internal() if begun else _unreachable(error)).to_item()]
        finally:
            if not ended:
                stream.cancel()

    async def tokenize(self, job: TokenizeJob) -> Tokens | ErrorItem:
        return cast("Tokens | ErrorItem", await self._ask(self._handle.tokenize, job))

    async def detokenize(self, job: DetokenizeJob) -> Text | ErrorItem:
        return cast("Text | ErrorItem", await self._ask(self._handle.detokenize, job))

    async def models(self) -> Models:
        return cast(Models, await self._ask(self._handle.models))

    async def status(self) -> Status:
        return cast(Status, await self._ask(self._handle.status))

    async def metrics(self) -> str:
        return cast(str, await self._ask(self._handle.metrics))

    async def _ask(self, method: Any, *arguments: Any) -> Any:
        """Raises ApiError where the engine's process does not answer."""
        try:
            return await method.remote(*arguments)
        except (RayError, RayServeException) as error:
            raise _unreachable(error) from error


def _unreachable(error: Exception) -> ApiError:
    if isinstance(error, BackPressureError):
        return overloaded("too many requests are waiting for the engine; try again later")
    return loading("the engine is not there; it is starting or being restarted")


class Ingress:
    """Turns HTTP into jobs for the engine. Holds nothing that a restart would lose."""

    def __init__(self, engine: Any, limits: dict[str, Any]) -> None:
        self._client = HandleClient(engine)
        self._limits = Limits.model_validate(limits)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build_api(Api(self._client, self._limits, names_answers=False))
