"""Finds the sequences whose time is up, without a look at the others. Ends none."""

from heapq import heapify, heappop, heappush

from serve_app.scheduling.sequence import Sequence


class Deadlines:
    """Of sequences that have one, by number.

    A heap, in which those that have ended stay until their time, but never more than half of it.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._live: dict[int, Sequence] = {}

    def add(self, sequence: Sequence) -> None:
        """It has arrived."""
        if sequence.deadline is not None:
            self._live[sequence.number] = sequence
            heappush(self._heap, (sequence.deadline, sequence.number))

    def drop(self, sequence: Sequence) -> None:
        """It has ended."""
        if self._live.pop(sequence.number, None) is None:
            return
        if len(self._heap) > 2 * len(self._live):
            self._heap = [entry for entry in self._heap if entry[1] in self._live]
            heapify(self._heap)

    def missed(self, now: float) -> list[Sequence]:
        """Those whose time is up, the longest first."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            sequence = self._live.get(heappop(self._heap)[1])
            if sequence is not None:
                found.append(sequence)
        return found
