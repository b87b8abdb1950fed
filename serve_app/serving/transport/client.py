"""How the ingress reaches the engine: jobs and questions over a Ray Serve handle."""

import asyncio
import contextvars
import logging
import os
import uuid
from collections.abc import Coroutine
from typing import Any, cast

import grpc
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException

from serve_app.protocol.errors import (
    ProtocolError,
    deadline_exceeded,
    internal,
    loading,
    overloaded,
)
from serve_app.protocol.messages import (
    AdminAction,
    AdminDone,
    AdminFacts,
    DetokenizeJob,
    ErrorItem,
    Job,
    Models,
    Status,
    Text,
    TokenizeJob,
    Tokens,
)
from serve_app.serving.transport.carrier import Parcel
from serve_app.serving.transport.inbox import Inbox

_log = logging.getLogger(__name__)
_LONGEST_MESSAGE = "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"
_LONG_ENOUGH = 2**30
"""Bytes; longer than any job, and than what a step makes for all jobs."""
_GRPC = {
    "_by_reference": False,
    "request_serialization": "pickle",
    "response_serialization": "pickle",
}
_ALL_S = 10.0
"""How long all replicas together have to answer."""
_LATE_S = 30.0
"""How long to wait for a job's last items on another stream after its own has ended."""


class HandleClient:
    """`EngineClient` over a handle to the engine deployment, with a `Sender` at the other end.

    A job's stream is read to its end even if its client has left, since it may carry the items of
    other jobs. A message to the replicas ends a job. It goes to all of them, because a handle
    cannot address one. A draining replica does not get it, and finishes the job.

    Streams go over Serve's own gRPC, which has Ray's authentication and encryption, because a
    message then costs half of what one of Ray's objects does. Questions do not: in the context of
    an HTTP request, Serve would not decode their answers. Nor do streams where Serve's environment
    limits the length of messages, as it does by default.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._streaming = handle.options(stream=True, **(_GRPC if _takes_long_messages() else {}))
        self._name = uuid.uuid4().hex
        self._inboxes: dict[str, Inbox] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def generate(self, job: Job) -> Inbox:
        """A failure between the processes is a refusal at first, and an error midway later."""
        name = job["id"]

        def left(inbox: Inbox) -> None:
            del self._inboxes[name]
            if not inbox.has_ended:
                self._begin(self._abort(name))

        inbox = self._inboxes[name] = Inbox(left)
        self._begin(self._read(job, inbox))
        if job["timeout_s"] is not None:
            # The engine ends it too, unless it is stuck: then nobody else would tell the client.
            inbox.fail_after(job["timeout_s"], deadline_exceeded())
        return inbox

    async def _read(self, job: Job, inbox: Inbox) -> None:
        """Reads a job's whole stream: its opening, and parcels with any job's items."""
        try:
            async for message in self._streaming.send.remote(job, self._name):
                if isinstance(message, list):
                    self._hand_out(message)
                    continue
                inbox.open(message["items"])
                if job["id"] not in self._inboxes:
                    await self._abort(job["id"])  # left before the replica knew about it
        except (grpc.RpcError, RayError, RayServeException) as error:
            _log.warning("job %s: %s", job["id"], error)
            inbox.fail(internal() if inbox.is_open else _unreachable(error))
            return
        if not inbox.has_ended and not await inbox.ended(_LATE_S):
            inbox.fail(internal())

    def _hand_out(self, parcel: Parcel) -> None:
        for job, items in parcel:
            inbox = self._inboxes.get(job)
            if inbox is not None:
                inbox.put(items)

    async def _abort(self, job: str) -> None:
        try:
            await self._handle.broadcast("abort", job).results_async(return_exceptions=True)
        except (RayError, RayServeException) as error:
            _log.warning("job %s could not be given up: %s", job, error)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """In the background, and in its own context: when a client leaves, Serve cancels what its
        request has called, which could close a stream that carries other jobs' items.
        """
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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

    async def admin(self) -> list[AdminFacts]:
        return cast("list[AdminFacts]", await self._ask_all("admin"))

    async def change(self, model: str, action: AdminAction) -> list[AdminDone | ErrorItem]:
        replies = await self._ask_all("change", model, action)
        return cast("list[AdminDone | ErrorItem]", replies)

    async def _ask_all(self, method: str, *arguments: Any) -> list[Any]:
        """What all replicas say, one after the other.

        Raises ProtocolError if one of them does not answer, or there is none.
        """
        try:
            asked = self._handle.broadcast(method, *arguments)
            replies = await asked.results_async(timeout_s=_ALL_S)
            found = [item for items in replies for item in items]
        except TimeoutError:
            raise loading("a replica of the engine does not answer") from None
        except (RayError, RayServeException) as error:
            raise _unreachable(error) from error
        if not found:
            raise loading("the engine is not available: it is starting or restarting")
        return found

    async def _ask(self, method: Any, *arguments: Any) -> Any:
        """Raises ProtocolError if the engine's process does not answer."""
        try:
            return await method.remote(*arguments)
        except (RayError, RayServeException) as error:
            raise _unreachable(error) from error


def _takes_long_messages() -> bool:
    return int(os.environ.get(_LONGEST_MESSAGE, "0")) >= _LONG_ENOUGH


def _unreachable(error: Exception) -> ProtocolError:
    if isinstance(error, BackPressureError):
        return overloaded("too many requests are waiting for the engine; try again later")
    return loading("the engine is not available: it is starting or restarting")
