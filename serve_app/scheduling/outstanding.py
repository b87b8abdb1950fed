"""Plans that are not committed yet, and for whom what they give counts. Decides nothing."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from serve_app.scheduling.plan import Chunk, StepPlan
from serve_app.scheduling.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A plan, and the sequences of its chunks; None where what it gives does not count."""

    plan: StepPlan
    sequences: tuple[Sequence | None, ...]

    @property
    def counted(self) -> Iterator[tuple[Chunk, Sequence]]:
        """The chunks that count, with their sequences."""
        for chunk, sequence in zip(self.plan.chunks, self.sequences, strict=True):
            if sequence is not None:
                yield chunk, sequence

    def samples(self, sequence: Sequence) -> bool:
        """Whether it samples a token that counts for a sequence."""
        return any(chunk.samples for chunk, other in self.counted if other is sequence)

    def without(self, sequences: Collection[Sequence]) -> "Outstanding":
        """The same, with nothing that counts for these."""
        kept = tuple(None if one in sequences else one for one in self.sequences)
        return Outstanding(self.plan, kept)
