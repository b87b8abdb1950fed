"""Sends a replica's jobs to an ingress: many jobs over one stream. Generates nothing."""

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
    """A job whose first items are there. carrier: None if these are all."""

    items: list[Item]
    carrier: Carrier | None
    carries: bool


class Sender:
    """Gives every job its own stream, and lets one stream of each ingress carry all items.

    It is the stream of a job that begins when there is no carrier. It goes on after that job has
    ended, as long as any job of the ingress is open. The other streams are silent, but stay open
    as long as their jobs, so that Serve counts them, and reports when a process dies.
    """

    def __init__(self, generate: _Generate) -> None:
        self._generate = generate
        self._carriers: dict[str, Carrier] = {}
        self._jobs: dict[str, asyncio.Task[None]] = {}

    async def send(self, job: Job, ingress: str) -> AsyncGenerator[Opening | Parcel, None]:
        """`Opening` first, then parcels if it says so. Ends with the job, or the last of all jobs.

        Raises CarrierGone if the stream that carries the job's items was closed.
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
        """Aborts a job, if it is here. Does not close its stream, which may carry items of other
        jobs and ends by itself.
        """
        if job in self._jobs:
            self._jobs[job].cancel()

    def _close(self, ingress: str, begun: _Begun) -> None:
        """If the stream of this job carries for its ingress, another must take over."""
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
