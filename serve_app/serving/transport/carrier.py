"""One stream from an engine replica to an ingress for all of its jobs. Knows no Ray and no job.

A message between processes costs far more than what is in it. So what jobs yield in the same turn
of the event loop, which is what one step of the engine has made, travels as one parcel.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import TypedDict

from serve_app.protocol.messages import Item

Parcel = list[tuple[str, Sequence[Item] | None]]
"""Items by job, in the order they were made; None behind the last ones of a job."""


class Opening(TypedDict):
    """First on the stream of a job: its first items, and whether parcels follow on this stream."""

    items: list[Item]
    carries: bool


class CarrierGone(Exception):
    """The stream that carried a job's items was closed before the job had ended."""


class Carrier:
    """Collects the items of the jobs of one ingress, and yields them as parcels."""

    def __init__(self) -> None:
        self._parcel: Parcel = []
        self._filled = asyncio.Event()
        self._open: set[str] = set()
        self.is_gone = False

    def begin(self, job: str) -> None:
        """Parcels follow until this job, and every other that has begun, has ended."""
        self._open.add(job)

    def put(self, job: str, items: Sequence[Item]) -> None:
        """Raises CarrierGone when nobody reads any more."""
        if self.is_gone:
            raise CarrierGone(f"job {job}: the stream that carries it was closed")
        self._parcel.append((job, items))
        self._filled.set()

    def end(self, job: str) -> None:
        """Nothing follows of this job."""
        self._open.discard(job)
        self._parcel.append((job, None))
        self._filled.set()

    async def parcels(self) -> AsyncGenerator[Parcel, None]:
        """Until no job is open; then, or when closed before, the carrier is gone."""
        try:
            while self._open or self._parcel:
                await self._filled.wait()
                self._filled.clear()
                parcel, self._parcel = self._parcel, []
                if parcel:
                    yield parcel
        finally:
            self.is_gone = True
