"""Finds the queue whose turn it is on a backbone, without a look at every queue. Counts nothing."""

from heapq import heappop, heappush, heapreplace
from itertools import count

from serve_app.scheduling.fairness.accounts import Queue, Turn

Entry = tuple[Turn, int, Queue]
"""The number tells the entries of a queue apart."""


class Turns:
    """The queues with waiting sequences, by backbone.

    An entry of the heap may be older than its queue's turn. Turns only grow while a queue waits,
    except when another sequence becomes its head, which `put` is told. So every waiting queue has
    one entry that counts, with a turn that is not larger than its own; when such an entry comes to
    the top, it is put right. A queue that is served n times costs n log n at most, and one that is
    not costs nothing.
    """

    def __init__(self) -> None:
        self._heaps: dict[str, list[Entry]] = {}
        self._newest: dict[Queue, int] = {}
        self._numbers = count()

    @property
    def backbones(self) -> list[str]:
        """Those that something may wait for."""
        return list(self._heaps)

    def put(self, queue: Queue) -> None:
        """It has begun to wait, or has another head."""
        number = self._newest[queue] = next(self._numbers)
        heappush(self._heaps.setdefault(queue.backbone, []), (queue.turn, number, queue))

    def drop(self, queue: Queue) -> None:
        """Nothing waits in it any more."""
        del self._newest[queue]
        heap = self._heaps[queue.backbone]
        while heap and self._newest.get(heap[0][2]) != heap[0][1]:
            heappop(heap)
        if not heap:
            del self._heaps[queue.backbone]

    def first(self, backbone: str) -> Entry | None:
        """Whose turn it is, of those that wait for this backbone, and what that turn is."""
        heap = self._heaps.get(backbone, [])
        while heap:
            turn, number, queue = heap[0]
            if self._newest.get(queue) != number:
                heappop(heap)
            elif (now := queue.turn) != turn:
                heapreplace(heap, (now, number, queue))
            else:
                return heap[0]
        return None
