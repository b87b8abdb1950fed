"""One stream from an engine replica to an ingress for all its jobs. Knows no Ray and no job.

A message between processes costs far more than its content. So everything that jobs yield in the
same turn of the event loop, which is the result of one step of the engine, travels as one parcel.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import TypedDict

from serve_app.protocol.messages import Item
from serve_app.serving.transport.pending import Pending

Delivery = tuple[str, Sequence[Item] | None]
"""A job, and more of its items; None after the last of them."""
Parcel = list[Delivery]
"""Items of many jobs, in the order in which they were made."""


class Opening(TypedDict):
    """Comes first on a job's stream: its first items, and whether parcels follow on this stream."""

    items: list[Item]
    carries: bool


class CarrierGone(Exception):
    """The stream that carried a job's items was closed before the job had ended."""


class Carrier:
    """Collects the items of the jobs of one ingress, and yields them as parcels."""

    def __init__(self) -> None:
        self._pending = Pending[Delivery]()
        self._open: set[str] = set()
        self.is_gone = False

    def begin(self, job: str) -> None:
        """Parcels follow until this job, and every other that has begun, has ended."""
        self._open.add(job)

    def put(self, job: str, items: Sequence[Item]) -> None:
        """Raises CarrierGone if nobody reads any more."""
        if self.is_gone:
            raise CarrierGone(f"job {job}: the stream that carries it was closed")
        self._pending.put([(job, items)])

    def end(self, job: str) -> None:
        """Nothing more follows from this job."""
        self._open.discard(job)
        self._pending.put([(job, None)])

    def close(self) -> None:
        """Nobody reads any more."""
        self.is_gone = True

    async def parcels(self) -> AsyncGenerator[Parcel, None]:
        """Waits until no job is open."""
        while self._open or self._pending:
            yield await self._pending.take()
