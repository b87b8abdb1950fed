"""Which tensors of which places are still on their way. Copies nothing and decides nothing."""

import threading
from collections.abc import Iterable

import torch


class Arrival:
    """One backbone on its way into a place. A thread brings it; steps wait for what they read."""

    def __init__(self) -> None:
        self._there: dict[str, torch.cuda.Event | None] = {}
        self._has_ended = False
        self._changed = threading.Condition()
        self.is_awaited = False
        """Whether a step has waited for it, so that its tensors had better come soon."""

    def came(self, name: str, event: torch.cuda.Event | None = None) -> None:
        """The tensor of a stack is there; on CUDA, once the event has happened."""
        with self._changed:
            self._there[name] = event
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more comes: all is there, or the load failed. Nobody waits any longer."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def wait(self, name: str) -> None:
        """Let the caller (on CUDA: what it launches from now on) go on once a tensor is there.

        After a load that failed it goes on as well: whoever launched the step learns of that from
        the loader, which reports before it ends an arrival.
        """
        self.is_awaited = True
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended or name in self._there)
        event = self._there.get(name)
        if event is not None:
            event.wait()


class Arrivals:
    """The arrivals of all places; written and asked by the thread that runs the steps."""

    def __init__(self) -> None:
        self._coming: dict[int, Arrival] = {}

    def expect(self, place: int) -> Arrival:
        """A backbone is about to be copied into a place."""
        arrival = self._coming[place] = Arrival()
        return arrival

    def settle(self, place: int) -> None:
        """What was on its way to a place is there, or will not come."""
        self._coming.pop(place, None)

    def pending(self, places: Iterable[int]) -> tuple[Arrival, ...]:
        """What is on its way to any of these places. A step on them must wait for tensors."""
        if not self._coming:
            return ()
        return tuple(self._coming[place] for place in places if place in self._coming)
