"""Turns the chunks of a plan into the step as leaves see it. Decides nothing."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from serve_app.engine.step.integers import Integers
from serve_app.engine.step.step import PagedOnHost, Paging, RopeSpan, SequenceGroup, Spans, StepView
from serve_app.scheduling.ledgers.blocks import BLOCKS
from serve_app.scheduling.plan import Chunk

PIECE_TOKENS = 128
"""At most this many tokens of a prompt attend at once. The scores of more would not stay in cache,
and the first tokens need not read the blocks of the last."""


class Output(NamedTuple):
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


def outputs_of(chunks: Sequence[Chunk]) -> list[Output]:
    """The rows of logits that chunks need, by chunk, then by position."""
    found: list[Output] = []
    for chunk in chunks:
        if chunk.keep_prompt_logits:
            end = min(chunk.end, chunk.prompt_len - 1)
            found += [Output(chunk, position, False) for position in range(chunk.start, end)]
        if chunk.samples:  # so it reaches beyond those
            found.append(Output(chunk, chunk.end - 1, True))
    return found


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
        size = self._block_size
        for chunk, row in zip(chunks, rows, strict=True):
            starts.append(len(ids))
            ids += chunk.tokens
            blocks = chunk.held[BLOCKS]
            for position in range(chunk.start, chunk.end):
                places.append(chunk.place)
                token_rows.append(row)
                positions.append(position)
                kv_index.append(blocks[position // size] * size + position % size)
        integers = Integers(self._device)
        tokens = of_outputs = Spans.of(places, token_rows, self._num_places, integers)
        wanted: Sequence[int] = range(len(ids))
        if len(outputs) < len(ids):
            start_of = {chunk.sequence: s for chunk, s in zip(chunks, starts, strict=True)}
            wanted = [start_of[o.chunk.sequence] + o.position - o.chunk.start for o in outputs]
            of_outputs = Spans.of(
                [places[i] for i in wanted],
                [token_rows[i] for i in wanted],
                self._num_places,
                integers,
            )
        view = StepView(
            tokens=tokens,
            outputs=of_outputs,
            output_index=integers.put(wanted),
            ids=integers.put(ids),
            positions=integers.put(positions),
            kv_index=integers.put(kv_index),
            groups=self._groups(chunks, starts, integers) if self._with_groups else (),
            paging=self._paging(chunks, starts, integers) if self._with_paging else None,
            ropes=_rope_spans(chunks, starts, rows, len(ids)),
        )
        integers.send()
        return view

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
                rows=integers.put_rows([range(p.row, p.row + p.end - p.start) for p in pieces]),
                tables=integers.put_rows(_padded([piece.blocks for piece in pieces])),
                positions=integers.put_rows([range(p.start, p.end) for p in pieces]),
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
            tables=integers.put_rows(_padded(host.tables), torch.int32),
            block_size=self._block_size,
            most_tokens=max(len(chunk.tokens) for chunk in chunks),
            most_positions=max(host.lengths),
            host=host,
        )


def _padded(tables: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    longest = max(map(len, tables))
    return [
        table if len(table) == longest else table + (0,) * (longest - len(table))
        for table in tables
    ]


def _rope_spans(
    chunks: Sequence[Chunk], starts: Sequence[int], rows: Sequence[int], num_tokens: int
) -> tuple[RopeSpan, ...]:
    """One for neighbours of a model whose angles do not depend on the length of the sequence.

    Otherwise one for the tokens of a chunk that `generate()` computes in one forward, then one per
    later token.
    """
    firsts: list[tuple[int, int, int]] = []  # start, row, length
    joins: int | None = None
    for chunk, start, row in zip(chunks, starts, rows, strict=True):
        if not chunk.by_length:
            if row != joins:
                firsts.append((start, row, chunk.forward_len))
            joins = row
            continue
        joins = None
        together = max(0, min(chunk.end, chunk.forward_len) - chunk.start)
        if together:
            firsts.append((start, row, chunk.forward_len))
        for offset in range(together, len(chunk.tokens)):
            firsts.append((start + offset, row, chunk.start + offset + 1))
    ends = [*(first[0] for first in firsts[1:]), num_tokens]
    return tuple(
        RopeSpan(start, end, row, length)
        for (start, row, length), end in zip(firsts, ends, strict=True)
    )
