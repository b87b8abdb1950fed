"""Which tensors of which places have not arrived yet. Copies nothing and decides nothing."""

import threading
from collections.abc import Iterable

import torch


class Arrival:
    """One backbone on its way into a place. A thread copies it; steps wait for what they read."""

    def __init__(self) -> None:
        self._there: dict[str, torch.cuda.Event | None] = {}
        self._has_ended = False
        self._changed = threading.Condition()
        self.is_awaited = False
        """Whether a step has waited for it, so that its copy should hurry."""

    def came(self, name: str, event: torch.cuda.Event | None = None) -> None:
        """The tensor of a stack has arrived; on CUDA, once the event has happened."""
        with self._changed:
            self._there[name] = event
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more comes: all has arrived, or the load failed. Nobody waits any longer."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def wait(self, name: str) -> None:
        """Wait (on CUDA: let later launches wait) until a tensor has arrived.

        Also goes on after a failed load: whoever launched the step hears of that from the loader,
        which reports before it ends an arrival.
        """
        self.is_awaited = True
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended or name in self._there)
        event = self._there.get(name)
        if event is not None:
            event.wait()


class Arrivals:
    """The arrivals of all places; only the thread that runs the steps writes and reads it."""

    def __init__(self) -> None:
        self._coming: dict[int, Arrival] = {}

    def expect(self, place: int) -> Arrival:
        """A backbone will now be copied into a place."""
        arrival = self._coming[place] = Arrival()
        return arrival

    def settle(self, place: int) -> None:
        """The backbone for a place has arrived, or will not come."""
        self._coming.pop(place, None)

    def pending(self, places: Iterable[int]) -> tuple[Arrival, ...]:
        """The arrivals at any of these places. A step on them must wait for tensors."""
        if not self._coming:
            return ()
        return tuple(self._coming[place] for place in places if place in self._coming)
