"""Reads the parts of experts that a release needs, several at once where its place is far away."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from representation.few_ahead import read_ahead
from serve_app.engine.experts.shelving import ShelfKey
from serve_app.engine.source import PartLike, ReleaseSource
from serve_app.units import size

TOLD_EVERY_S = 30.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PartToLoad:
    """A slot or a residual of a release, by its index in its layer, and the row for it."""

    layer: int
    shelf: ShelfKey
    index: int
    row: int

    def stored(self, source: ReleaseSource) -> PartLike:
        """The file that it is in."""
        layer = source.layers[self.layer]
        return (layer.residuals if self.shelf.residual else layer.slots)[self.index]

    def read(self, source: ReleaseSource) -> dict[str, torch.Tensor]:
        """Its tensors as they are stored, verified."""
        read = source.read_residual if self.shelf.residual else source.read_slot
        return read(self.layer, self.index)


def read_parts(
    source: ReleaseSource, parts: Sequence[PartToLoad]
) -> Iterator[tuple[PartToLoad, dict[str, torch.Tensor]]]:
    """The parts with their tensors, in order. The log tells the rate."""
    sizes = [part.stored(source).bytes for part in parts]
    read = read_ahead(lambda part: part.read(source), parts, sizes, source.reads_at_once)
    told = _Told(source.id, sum(sizes))
    for part, tensors, num_bytes in zip(parts, read, sizes, strict=True):
        yield part, tensors
        told.done(num_bytes)


class _Told:
    """What was read of a release, in the log: now and then, and at the end."""

    def __init__(self, release: str, total: int) -> None:
        self._release, self._total, self._read = release, total, 0
        self._began = self._said = time.monotonic()

    def done(self, num_bytes: int) -> None:
        self._read += num_bytes
        now = time.monotonic()
        if self._read == self._total or now - self._said >= TOLD_EVERY_S:
            self._said = now
            rate = self._read / max(now - self._began, 1e-9)
            logger.info(
                "release %s: %s of %s of experts read, %s/s",
                self._release,
                size(self._read),
                size(self._total),
                size(int(rate)),
            )
