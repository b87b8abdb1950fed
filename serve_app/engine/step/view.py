"""Turns the chunks of a plan into the step as leaves see it. Decides nothing."""

from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest

import numpy as np
import torch

from serve_app.engine.step.integers import Integers, Ints
from serve_app.engine.step.paging import PagedOnHost, Paging
from serve_app.engine.step.sequence_group import SequenceGroup
from serve_app.engine.step.spans import Spans
from serve_app.engine.step.step import RopeSpan, StepView
from serve_app.engine.step.step_inputs import StepInputs, paging_of_inputs, step_inputs
from serve_app.engine.step.step_states import StatePiece, StepStates
from serve_app.scheduling.ledgers.blocks import BLOCKS
from serve_app.scheduling.ledgers.input_blocks import INPUT_BLOCKS
from serve_app.scheduling.ledgers.state_rows import STATE_ROWS
from serve_app.scheduling.plan import Chunk

PIECE_TOKENS = 128
"""At most this many tokens of a prompt attend at once. The scores of more would not stay in cache,
and the first tokens need not read the blocks of the last."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """The n rows of logits that a step needs, by chunk, then by position.

    chunks: which chunk each is of.   positions: in its sequence.   samples: whether to sample.
    """

    chunks: Sequence[int]
    positions: Sequence[int]
    samples: Sequence[bool]

    def __len__(self) -> int:
        return len(self.chunks)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens of a chunk at positions [start, end), the first in `row`, with blocks up to `end`."""

    row: int
    start: int
    end: int
    blocks: tuple[int, ...]


def outputs_of(chunks: Sequence[Chunk]) -> Outputs:
    """The rows of logits that chunks need."""
    indices: list[int] = []
    positions: list[int] = []
    samples: list[bool] = []
    for index, chunk in enumerate(chunks):
        end = chunk.start + len(chunk.tokens)
        if chunk.keep_prompt_logits:
            prompt = range(chunk.start, min(end, chunk.prompt_len - 1))
            indices += [index] * len(prompt)
            positions += prompt
            samples += [False] * len(prompt)
        if chunk.samples:  # so it reaches beyond those
            indices.append(index)
            positions.append(end - 1)
            samples.append(True)
    return Outputs(indices, positions, samples)


class ViewBuilder:
    """Makes the tensors that describe what a step computes.

    num_places: backbones on the device.   block_size: tokens in a KV block.
    groups, paging: whether the sequences are needed in these shapes.
    states: whether models keep state besides keys and values.   inputs: whether they have encoders.
    """

    def __init__(
        self,
        num_places: int,
        block_size: int,
        device: torch.device,
        *,
        groups: bool = True,
        paging: bool = False,
        states: bool = False,
        inputs: bool = False,
    ) -> None:
        self._num_places = num_places
        self._block_size = block_size
        self._device = device
        self._with_groups = groups
        self._with_paging = paging
        self._with_states = states
        self._with_inputs = inputs
        self._tables = BlockTables()
        self._input_tables = BlockTables()

    def build(self, chunks: Sequence[Chunk], rows: Sequence[int], outputs: Outputs) -> StepView:
        """The step as the packed model's leaves see it. rows: map row of each chunk."""
        whole = chunks
        if self._with_inputs:
            outputs = replace(
                outputs,
                positions=[
                    position - chunks[at].num_inputs
                    for at, position in zip(outputs.chunks, outputs.positions, strict=True)
                ],
            )
            chunks = [chunk.decoded for chunk in chunks]
        counts = np.array([len(chunk.tokens) for chunk in chunks])  # (S,)
        ends = counts.cumsum()  # (S,)
        starts = ends - counts
        of_chunk = np.arange(len(chunks)).repeat(counts)  # (T,)
        ahead = np.array([chunk.start for chunk in chunks]) - starts  # (S,) position less row
        positions = np.arange(ends[-1]) + ahead[of_chunk]  # (T,)
        places = np.array([chunk.place for chunk in chunks])[of_chunk]  # (T,)
        token_rows = np.array(rows)[of_chunk]  # (T,)
        tables = self._tables.padded([chunk.held[BLOCKS] for chunk in chunks])  # (S, b)
        size = self._block_size
        kv_index = tables[of_chunk, positions // size] * size + positions % size  # (T,)
        integers = Integers(self._device)
        tokens = of_outputs = Spans.of(places, token_rows, self._num_places, integers)
        wanted = np.array(outputs.positions, dtype=np.int64) - ahead[outputs.chunks]  # (n,)
        if len(outputs) < len(positions):
            of_outputs = Spans.of(places[wanted], token_rows[wanted], self._num_places, integers)
        begins = starts.tolist()
        view = StepView(
            tokens=tokens,
            outputs=of_outputs,
            output_index=integers.put(wanted),
            ids=integers.put(chain.from_iterable(chunk.tokens for chunk in chunks)),
            positions=integers.put(positions),
            kv_index=integers.put(kv_index),
            groups=self._groups(chunks, begins, integers) if self._with_groups else (),
            paging=self._paging(chunks, begins, tables, integers) if self._with_paging else None,
            ropes=_rope_spans(chunks, begins, rows, len(positions)),
            states=_states(chunks, begins, positions, integers) if self._with_states else None,
            inputs=self._inputs(whole, chunks, begins, rows, integers)
            if self._with_inputs
            else None,
        )
        integers.send()
        return view

    def _inputs(
        self,
        whole: Sequence[Chunk],
        chunks: Sequence[Chunk],
        starts: Sequence[int],
        rows: Sequence[int],
        integers: Integers,
    ) -> StepInputs:
        """whole: the chunks with their inputs.   chunks: the same without, at `starts`"""
        tables = self._input_tables.padded([chunk.held[INPUT_BLOCKS] for chunk in whole])
        size = self._block_size
        groups = self._groups_of_inputs(chunks, starts, integers) if self._with_groups else ()
        paging = paging_of_inputs(chunks, tables, size, integers) if self._with_paging else None
        return step_inputs(whole, rows, tables, groups, paging, self._num_places, size, integers)

    def _groups_of_inputs(
        self, chunks: Sequence[Chunk], starts: Sequence[int], integers: Integers
    ) -> tuple[SequenceGroup, ...]:
        """Like `_groups`, of what tokens see of inputs: each token of a sequence the whole input.

        So all of them are at the position of the last one.
        """
        groups: dict[tuple[int, int], list[tuple[int, Chunk]]] = defaultdict(list)
        for chunk, start in zip(chunks, starts, strict=True):
            for first in range(0, len(chunk.tokens), PIECE_TOKENS):
                count = min(PIECE_TOKENS, len(chunk.tokens) - first)
                num_blocks = len(chunk.held[INPUT_BLOCKS])
                groups[count, num_blocks.bit_length()].append((start + first, chunk))
        return tuple(
            SequenceGroup(
                rows=integers.put_rows([range(row, row + count) for row, _ in pieces]),
                tables=integers.put(_padded([chunk.held[INPUT_BLOCKS] for _, chunk in pieces])),
                positions=integers.put_rows(
                    [[chunk.num_inputs - 1] * count for _, chunk in pieces]
                ),
                block_size=self._block_size,
            )
            for (count, _), pieces in groups.items()
        )

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
                tables=integers.put(_padded([piece.blocks for piece in pieces])),
                positions=integers.put_rows([range(p.start, p.end) for p in pieces]),
                block_size=self._block_size,
            )
            for pieces in groups.values()
        )

    def _paging(
        self,
        chunks: Sequence[Chunk],
        starts: Sequence[int],
        tables: Ints,
        integers: Integers,
    ) -> Paging:
        """tables: (S, b), blocks of the chunks"""
        num_tokens = starts[-1] + len(chunks[-1].tokens)
        host = PagedOnHost(
            starts=(*starts, num_tokens),
            lengths=tuple([chunk.start + len(chunk.tokens) for chunk in chunks]),
            tables=tuple([chunk.held[BLOCKS] for chunk in chunks]),
        )
        return Paging(
            starts=integers.put(host.starts, torch.int32),
            lengths=integers.put(host.lengths, torch.int32),
            tables=integers.put(tables.astype(np.int32), torch.int32),
            block_size=self._block_size,
            most_tokens=max([len(chunk.tokens) for chunk in chunks]),
            most_positions=max(host.lengths),
            host=host,
        )


class BlockTables:
    """The blocks of a step's sequences as one array; most rows are those of the step before."""

    def __init__(self) -> None:
        self._before: list[tuple[int, ...]] = []
        self._array: Ints = np.empty((0, 0), dtype=np.int64)

    def padded(self, tables: list[tuple[int, ...]]) -> Ints:
        """Padded with block 0, some to more than the longest; valid until the next call. (S, b)"""
        both = enumerate(zip(tables, self._before, strict=False))
        changed = [row for row, (now, before) in both if now is not before]
        width = self._array.shape[1]
        if len(tables) != len(self._before) or any(len(tables[row]) > width for row in changed):
            self._array = _padded(tables).copy()
        else:
            for row in changed:
                self._array[row] = tables[row] + (0,) * (width - len(tables[row]))
        self._before = tables
        return self._array


def _padded(tables: Sequence[tuple[int, ...]]) -> Ints:
    """The tables of S sequences, padded with block 0.  ->  (S, b)"""
    by_column = chain.from_iterable(zip_longest(*tables, fillvalue=0))
    return np.frombuffer(array("q", by_column), dtype=np.int64).reshape(-1, len(tables)).T


def _states(
    chunks: Sequence[Chunk], starts: Sequence[int], positions: Ints, integers: Integers
) -> StepStates:
    """positions: (T,), of the tokens in their sequences"""
    pieces = [
        StatePiece(chunk.held[STATE_ROWS][0], chunk.place, start, start + len(chunk.tokens))
        for chunk, start in zip(chunks, starts, strict=True)
    ]
    prompt_lens = np.array([chunk.prompt_len for chunk in chunks])
    lengths = prompt_lens.repeat([piece.length for piece in pieces])  # (T,)
    begins = [p.row for p, c in zip(pieces, chunks, strict=True) if not c.start]
    return StepStates.of(pieces, begins, positions < lengths, integers)


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
