"""How the ingress reaches the engine: jobs and questions over a Ray Serve handle."""

import asyncio
import contextlib
import contextvars
import logging
import os
import uuid
from collections.abc import Awaitable, Coroutine
from time import monotonic
from typing import Any, cast

from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException

from serve_app.errors import where
from serve_app.logs.about import about
from serve_app.protocol.errors import (
    ProtocolError,
    deadline_exceeded,
    draining,
    engine_unavailable,
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
from serve_app.serving.metrics.metrics_pages import merged, page
from serve_app.serving.transport.carrier import Parcel
from serve_app.serving.transport.doubt import OPENS_S, Doubt
from serve_app.serving.transport.engine_watch import EngineWatch
from serve_app.serving.transport.inbox import Inbox
from serve_app.serving.transport.signs import is_written, means_death, serves_nothing

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
_CLOSING_S = 3.0
"""How long clients that are told that it ends may take to read so."""
_AWAY_S = 120.0
"""How long a job waits for another engine after its own has died."""


class HandleClient:
    """`EngineClient` over a handle to the engine deployment, with a `Sender` at the other end.

    A job's stream is read to its end even if its client has left, since it may carry the items of
    other jobs. A message to the replicas ends a job. It goes to all of them, because a handle
    cannot address one. A draining replica does not get it, and finishes the job.

    A job that is not answered within `OPENS_S` is refused if the engine does not say that it is
    there: Serve would keep it until there is one.

    If the engine dies, a job of which its client was written nothing yet is sent again, once, when
    the engine is back, to the release that had accepted it, if any had. Its seed is the same, so
    nobody can tell. New jobs are refused until then.

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
        self._open: set[Inbox] = set()
        self._knows_start = False
        self._has_served = False
        self._has_left = asyncio.Event()
        self.is_draining = False
        self._watch = EngineWatch(self._serves)
        self._tasks: set[asyncio.Task[None]] = set()

    def generate(self, job: Job) -> Inbox:
        """A failure between the processes is a refusal at first, and an error midway later."""

        def left(inbox: Inbox) -> None:
            self._open.discard(inbox)
            self._has_left.set()
            for name in (job["id"], _again(job)["id"]):
                if self._inboxes.pop(name, None) is inbox and not inbox.has_ended:
                    self._begin(self._abort(name))

        inbox = Inbox(left)
        if self.is_draining:
            inbox.fail(draining())
            return inbox
        self._inboxes[job["id"]] = inbox
        self._open.add(inbox)
        self._begin(self._send(job, inbox))
        if not self._knows_start:
            self._begin(self._learn_start())
        if job["timeout_s"] is not None:
            # The engine ends it too, unless it is stuck: then nobody else would tell the client.
            inbox.fail_after(job["timeout_s"], deadline_exceeded())
        return inbox

    async def drain(self, grace_s: float) -> None:
        """Take no new jobs. Returns when all have ended; after the grace, they are ended."""
        self.is_draining = True
        await self._until_idle(grace_s)
        for inbox in self._open:
            inbox.fail(draining())
        await self._until_idle(_CLOSING_S)

    async def _until_idle(self, within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._open:
                    self._has_left.clear()
                    await self._has_left.wait()

    async def _send(self, job: Job, inbox: Inbox) -> None:
        """Send a job, and once more if the engine dies before its client was written anything."""
        if not await self._watch.known():
            inbox.fail(self._unavailable())
            return
        begun = monotonic()
        failure = await self._read(job, inbox)
        if failure is None or inbox.has_ended:
            return
        died = failure.code == "engine_unavailable"
        if died and not is_written(job, inbox) and await self._watch.back(_AWAY_S):
            failure = await self._read_again(job, inbox, monotonic() - begun)
        if failure is not None:
            inbox.fail(internal() if is_written(job, inbox) else failure)

    async def _read_again(self, job: Job, inbox: Inbox, after_s: float) -> ProtocolError | None:
        """Send a job for the second time, unless it has ended meanwhile. -> see `_read`"""
        if inbox.has_ended:
            return None
        del self._inboxes[job["id"]]
        if inbox.has_answer:
            inbox.begin_again()
        again = _again(job, inbox.release, after_s)
        self._inboxes[again["id"]] = inbox
        return await self._read(again, inbox)

    async def _read(self, job: Job, inbox: Inbox) -> ProtocolError | None:
        """Reads a job's whole stream: its opening, and parcels with any job's items.

        -> why it broke, if it did.
        """
        doubt = Doubt(self._watch, lambda: inbox.fail(self._unavailable()))
        sent = monotonic()
        try:
            async for message in self._streaming.send.remote(job, self._name):
                if isinstance(message, list):
                    self._hand_out(message)
                    continue
                doubt.end()
                if serves_nothing(message["items"][0]):
                    if self._watch.is_away and monotonic() - sent > OPENS_S:
                        return self._unavailable()  # sent before it died
                    if await self._starts_again():
                        inbox.fail(self._unavailable())
                inbox.open(message["items"])
                self._has_served = self._has_served or inbox.release is not None
                if job["id"] not in self._inboxes:
                    await self._abort(job["id"])  # left before the replica knew about it
        except Exception as error:  # noqa: BLE001  whatever it is, the client must hear of it
            told = about(request=job.get("request"), job=job["id"])
            _log.warning("a job broke: %s", where(error), extra=told)
            return self._lost(error)
        finally:
            doubt.end()
        if not inbox.has_ended and not await inbox.ended(_LATE_S):
            inbox.fail(internal())
        return None

    async def _starts_again(self) -> bool:
        """Whether there is an engine that serves nothing yet, where one has served before."""
        if self._has_served:
            self._watch.lost()
        return not await self._watch.known()

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
        self._refuse_if_draining()
        return cast("Tokens | ErrorItem", await self._ask(self._handle.tokenize, job))

    async def detokenize(self, job: DetokenizeJob) -> Text | ErrorItem:
        self._refuse_if_draining()
        return cast("Text | ErrorItem", await self._ask(self._handle.detokenize, job))

    def _refuse_if_draining(self) -> None:
        if self.is_draining:
            raise draining()

    async def models(self, tenant: str) -> Models:
        return cast(Models, await self._ask(self._handle.models, tenant))

    async def status(self) -> Status:
        status = cast(Status, await self._ask(self._handle.status))
        self._note_start(status)
        return {**status, "draining": True} if self.is_draining else status

    async def metrics(self) -> str:
        """Of all replicas, each series with the label `replica`."""
        return page(merged([await self._ask_all("plain_metrics")]))

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
            raise self._lost(error) from error
        if not found:
            raise self._unavailable()
        return found

    async def _ask(self, method: Any, *arguments: Any) -> Any:
        """Raises ProtocolError if the engine's process does not answer."""
        if not await self._watch.known():
            raise self._unavailable()
        asked = asyncio.ensure_future(_result(method.remote(*arguments)))
        try:
            done, _ = await asyncio.wait({asked}, timeout=OPENS_S)
            if not done:
                self._watch.lost()
                if not await self._watch.known():
                    raise self._unavailable()
            return await asked
        except ProtocolError:
            raise
        except Exception as error:
            _log.warning("a question failed: %s", where(error))
            raise self._lost(error) from error
        finally:
            asked.cancel()

    def _lost(self, error: Exception) -> ProtocolError:
        """What was asked has failed. -> what to tell the client"""
        if isinstance(error, BackPressureError):
            return overloaded("too many requests are waiting for the engine; try again later")
        if not means_death(error):
            return internal()
        self._watch.lost()
        return self._unavailable()

    def _unavailable(self) -> ProtocolError:
        return engine_unavailable(self._watch.retry_after_s, is_first=not self._watch.was_there)

    async def _learn_start(self) -> None:
        """While there is an engine to ask: afterwards it is too late."""
        self._knows_start = True
        with contextlib.suppress(ProtocolError):
            await self.status()

    def _note_start(self, status: Status) -> None:
        if "start_s" in status:
            self._watch.expect(status["start_s"])

    async def _serves(self) -> bool:
        status = cast(Status, await self._handle.status.remote())
        self._note_start(status)
        return status["healthy"] and status["release"] is not None


async def _result(response: Awaitable[Any]) -> Any:
    return await response


def _takes_long_messages() -> bool:
    return int(os.environ.get(_LONGEST_MESSAGE, "0")) >= _LONG_ENOUGH


def _again(job: Job, release: str | None = None, after_s: float = 0.0) -> Job:
    """The same job for a second time, after so long. Another name keeps what is left of the first
    apart.
    """
    again: Job = {**job, "id": f"{job['id']}.2", "release": release}
    if job["timeout_s"] is not None:
        again["timeout_s"] = job["timeout_s"] - after_s
    return again
