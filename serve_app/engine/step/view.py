"""Turns the chunks of a plan into the step as leaves see it. Decides nothing."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from serve_app.engine.step.integers import Integers
from serve_app.engine.step.step import PagedOnHost, Paging, RopeSpan, SequenceGroup, Spans, StepView
from serve_app.scheduling.ledgers.blocks import BLOCKS
from serve_app.scheduling.plan import Chunk

PIECE_TOKENS = 128
"""At most this many tokens of a prompt attend at once. The scores of more would not stay in cache,
and the first tokens need not read the blocks of the last."""


@dataclass(frozen=True, slots=True)
class Output:
    """One row of logits: its chunk, its position, and whether to sample from it."""

    chunk: Chunk
    position: int
    samples: bool


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens of a chunk at positions [start, end), the first in `row`, with blocks up to `end`."""

    row: int
    start: int
    end: int
    blocks: tuple[int, ...]


def outputs_of(chunk: Chunk) -> list[Output]:
    """The rows of logits that a chunk needs, by position."""
    last = chunk.end - 1
    wanted: set[int] = set()
    if chunk.keep_prompt_logits:
        wanted.update(range(chunk.start, min(chunk.end, chunk.prompt_len - 1)))
    if chunk.samples:
        wanted.add(last)
    return [Output(chunk, p, chunk.samples and p == last) for p in sorted(wanted)]


class ViewBuilder:
    """Makes the tensors that describe what a step computes.

    num_places: backbones on the device.   block_size: tokens in a KV block.
    groups, paging: whether the sequences are needed in these shapes.
    """

    def __init__(
        self,
        num_places: int,
        block_size: int,
        device: torch.device,
        *,
        groups: bool = True,
        paging: bool = False,
    ) -> None:
        self._num_places = num_places
        self._block_size = block_size
        self._device = device
        self._with_groups = groups
        self._with_paging = paging

    def build(
        self, chunks: Sequence[Chunk], rows: Sequence[int], outputs: Sequence[Output]
    ) -> StepView:
        """The step as the packed model's leaves see it. rows: map row of each chunk."""
        starts: list[int] = []
        places: list[int] = []
        token_rows: list[int] = []
        ids: list[int] = []
        positions: list[int] = []
        kv_index: list[int] = []
        for chunk, row in zip(chunks, rows, strict=True):
            starts.append(len(ids))
            ids += chunk.tokens
            places += [chunk.place] * len(chunk.tokens)
            token_rows += [row] * len(chunk.tokens)
            positions += range(chunk.start, chunk.end)
            kv_index += [self._kv_index(chunk, p) for p in range(chunk.start, chunk.end)]
        start_of = {chunk.sequence: s for chunk, s in zip(chunks, starts, strict=True)}
        wanted = [start_of[o.chunk.sequence] + o.position - o.chunk.start for o in outputs]
        integers = Integers(self._device)
        of_outputs = [places[i] for i in wanted], [token_rows[i] for i in wanted]
        view = StepView(
            tokens=Spans.of(places, token_rows, self._num_places, integers),
            outputs=Spans.of(*of_outputs, self._num_places, integers),
            output_index=integers.put(wanted),
            ids=integers.put(ids),
            positions=integers.put(positions),
            kv_index=integers.put(kv_index),
            groups=self._groups(chunks, starts, integers) if self._with_groups else (),
            paging=self._paging(chunks, starts, integers) if self._with_paging else None,
            ropes=tuple(
                span
                for chunk, start, row in zip(chunks, starts, rows, strict=True)
                for span in _rope_spans(chunk, start, row)
            ),
        )
        integers.send()
        return view

    def _kv_index(self, chunk: Chunk, position: int) -> int:
        block, offset = divmod(position, self._block_size)
        return chunk.held[BLOCKS][block] * self._block_size + offset

    def _groups(
        self, chunks: Sequence[Chunk], starts: Sequence[int], integers: Integers
    ) -> tuple[SequenceGroup, ...]:
        """Pieces of equal length attend together if their tables are of similar length."""
        groups: dict[tuple[int, int], list[_Piece]] = defaultdict(list)
        for chunk, start in zip(chunks, starts, strict=True):
            for first in range(chunk.start, chunk.end, PIECE_TOKENS):
                end = min(first + PIECE_TOKENS, chunk.end)
                num_blocks = -(-end // self._block_size)
                blocks = chunk.held[BLOCKS][:num_blocks]
                piece = _Piece(start + first - chunk.start, first, end, blocks)
                groups[end - first, num_blocks.bit_length()].append(piece)
        return tuple(
            SequenceGroup(
                rows=integers.put([range(p.row, p.row + p.end - p.start) for p in pieces]),
                tables=integers.put(_padded([piece.blocks for piece in pieces])),
                positions=integers.put([range(p.start, p.end) for p in pieces]),
                block_size=self._block_size,
            )
            for pieces in groups.values()
        )

    def _paging(self, chunks: Sequence[Chunk], starts: Sequence[int], integers: Integers) -> Paging:
        num_tokens = starts[-1] + len(chunks[-1].tokens)
        host = PagedOnHost(
            starts=(*starts, num_tokens),
            lengths=tuple(chunk.end for chunk in chunks),
            tables=tuple(chunk.held[BLOCKS] for chunk in chunks),
        )
        return Paging(
            starts=integers.put(host.starts, torch.int32),
            lengths=integers.put(host.lengths, torch.int32),
            tables=integers.put(_padded(host.tables), torch.int32),
            block_size=self._block_size,
            most_tokens=max(len(chunk.tokens) for chunk in chunks),
            most_positions=max(host.lengths),
            host=host,
        )


def _padded(tables: Sequence[Sequence[int]]) -> list[list[int]]:
    longest = max(len(table) for table in tables)
    return [[*table, *[0] * (longest - len(table))] for table in tables]


def _rope_spans(chunk: Chunk, start: int, row: int) -> list[RopeSpan]:
    """One for the tokens that `generate()` computes in one forward, then one per later token."""
    together = max(0, min(chunk.end, chunk.forward_len) - chunk.start)
    spans = [RopeSpan(start, start + together, row, chunk.forward_len)] if together else []
    for offset in range(together, len(chunk.tokens)):
        at = start + offset
        spans.append(RopeSpan(at, at + 1, row, chunk.start + offset + 1))
    return spans
