"""Which tokens rows of a step may have that follow a grammar. Computed beside its forward pass."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from serve_app.engine.run.sampling import SamplingRow
from serve_app.engine.step.transfer import array_to_device
from serve_app.grammar.following import Following
from serve_app.grammar.masks import BegunMasks, MaskMaker, Words
from serve_app.scheduling.plan import Chunk

_MOST_THREADS = 8


class SampledBefore(Protocol):
    """The step before, whose tokens the host may not know yet."""

    def sampled(self) -> Mapping[str, int]: ...


@dataclass(frozen=True, slots=True)
class Masks:
    """words: (m, W) int32 on the device, see `MaskMaker`.   rows: of each sequence that has one."""

    words: torch.Tensor
    rows: Mapping[str, int]

    def row(self, sequence: str, state: SamplingRow) -> SamplingRow:
        """What is sampled for a sequence, with its mask if it has one.

        A mask knows of `min_tokens` too: it may allow a stop token as a part of the text.
        """
        at = self.rows.get(sequence)
        if at is None:
            return state
        return state._replace(mask=at, is_plain=False, banned=frozenset())


class StepMasks:
    """Makes those of an engine's steps, one step at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._maker = MaskMaker(min(_MOST_THREADS, os.cpu_count() or 1))

    def begin(self, chunks: Sequence[Chunk], followed: Mapping[str, Following]) -> "Making":
        """Begins with those whose answers the host knows.   followed: by sequence; see `Runner`."""
        each = [(followed[c.sequence], c) for c in chunks if c.samples and c.sequence in followed]
        return Making(self._maker, self._device, each)


class Making:
    """The masks of one step, which are computed."""

    def __init__(
        self, maker: MaskMaker, device: torch.device, each: Sequence[tuple[Following, Chunk]]
    ) -> None:
        self._maker = maker
        self._device = device
        self._known = [(row, chunk) for row, chunk in each if not chunk.pending]
        self._pending = [(row, chunk) for row, chunk in each if chunk.pending]
        self._begun = self._begin(self._known)

    def masks(self, after: SampledBefore | None) -> Masks | None:
        """Wait for them; before that, for the tokens of the step before, if any needs one."""
        if self._pending and after is not None:
            tokens = after.sampled()
            for row, chunk in self._pending:
                row.take(chunk.num_generated - 1, tokens[chunk.sequence])
        begun = (self._begun, self._begin(self._pending))
        found = [each.words() for each in begun if each is not None]
        if not found:
            return None
        names = [chunk.sequence for _, chunk in (*self._known, *self._pending)]
        words = array_to_device(_stacked(found), self._device)
        return Masks(words, {name: row for row, name in enumerate(names)})

    def _begin(self, each: Sequence[tuple[Following, Chunk]]) -> BegunMasks | None:
        return self._maker.begin([row for row, _ in each]) if each else None


def _stacked(parts: Sequence[Words]) -> Words:
    """Below each other, the narrower ones filled up with what is not allowed."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts])
