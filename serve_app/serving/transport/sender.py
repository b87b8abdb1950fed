"""A replica's jobs as an ingress reads them: many jobs over one stream. Generates nothing."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from serve_app.protocol.messages import Item, Job
from serve_app.serving.transport.carrier import Carrier, Opening, Parcel

_Generate = Callable[[Job], AsyncGenerator[list[Item], None]]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A job whose first items are there. carrier: None where these were all."""

    items: list[Item]
    carrier: Carrier | None
    carries: bool


class Sender:
    """Gives every job a stream of its own, and lets one of an ingress' streams carry all items.

    Which one: that of the job that begins when there is none. It goes on when that job has ended,
    for as long as any job of the ingress is open. The streams of the others stay silent; they are
    open for as long as their jobs are, so that Serve counts them, and tells when a process dies.
    """

    def __init__(self, generate: _Generate) -> None:
        self._generate = generate
        self._carriers: dict[str, Carrier] = {}
        self._jobs: dict[str, asyncio.Task[None]] = {}

    async def send(self, job: Job, ingress: str) -> AsyncGenerator[Opening | Parcel, None]:
        """`Opening` first, and parcels if it says so. Ends with the job, or the last of them.

        Raises CarrierGone when the stream that carries the job's items was closed.
        """
        begun: asyncio.Future[_Begun] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._do(job, ingress, begun))
        self._jobs[job["id"]] = task
        try:
            either: set[asyncio.Future[Any]] = {task, begun}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if begun.done():
                first = begun.result()
                yield Opening(items=first.items, carries=first.carries)
                if first.carrier is not None and first.carries:
                    async with aclosing(first.carrier.parcels()) as parcels:
                        async for parcel in parcels:
                            yield parcel
                    self._close(ingress, first)
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()
        finally:
            del self._jobs[job["id"]]
            if begun.done():
                self._close(ingress, begun.result())
            task.cancel()
            await asyncio.wait({task})

    def abort(self, job: str) -> None:
        """Gives a job up, if it is here. Its stream is not closed, as it may carry others' items;
        it ends by itself.
        """
        if job in self._jobs:
            self._jobs[job].cancel()

    def _close(self, ingress: str, begun: _Begun) -> None:
        """If the stream of this job carries for its ingress, another must from now on."""
        if begun.carrier is not None and begun.carries and not begun.carrier.is_gone:
            begun.carrier.close()
            del self._carriers[ingress]

    async def _do(self, job: Job, ingress: str, begun: "asyncio.Future[_Begun]") -> None:
        async with aclosing(self._generate(job)) as batches:
            first = await anext(batches)
            if first[0]["type"] == "error":
                begun.set_result(_Begun(first, None, False))
                return
            carries = ingress not in self._carriers
            carrier = self._carriers.setdefault(ingress, Carrier())
            carrier.begin(job["id"])
            begun.set_result(_Begun(first, carrier, carries))
            try:
                async for items in batches:
                    carrier.put(job["id"], items)
            finally:
                carrier.end(job["id"])
