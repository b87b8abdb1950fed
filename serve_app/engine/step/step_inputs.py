"""What encoders are given in a step, and what of it each sequence sees. Only values."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch

from serve_app.engine.step.integers import Integers, Ints
from serve_app.engine.step.paging import PagedOnHost, Paging
from serve_app.engine.step.sequence_group import SequenceGroup
from serve_app.engine.step.spans import Spans
from serve_app.scheduling.plan import Chunk


class InputPiece(NamedTuple):
    """Rows [start, end) of the inputs of a step: all that an encoder is given of a sequence."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class StepInputs:
    """E tokens that encoders are given: the whole inputs of some of a step's sequences.

    tokens: of which models they are.   ids: (E,) int64   pieces: one for each input, in order.
    numbers: (E,) int64, which of the pieces each is of.
    index: (E,) int64, where cross-attention stores what it keeps of a token.
    groups, paging: for each of the step's tokens, where the input of its sequence is stored.
    """

    tokens: Spans
    ids: torch.Tensor
    pieces: tuple[InputPiece, ...]
    numbers: torch.Tensor
    index: torch.Tensor
    groups: tuple[SequenceGroup, ...]
    paging: Paging | None


def step_inputs(
    chunks: Sequence[Chunk],
    rows: Sequence[int],
    tables: Ints,
    groups: tuple[SequenceGroup, ...],
    paging: Paging | None,
    num_places: int,
    block_size: int,
    integers: Integers,
) -> StepInputs:
    """The inputs of chunks.

    rows: map row of each   tables: (S, b), blocks of each one's input
    groups, paging: see `StepInputs`
    """
    new = [at for at, chunk in enumerate(chunks) if not chunk.start]
    counts = np.array([chunks[at].num_inputs for at in new], dtype=np.int64)  # (K,)
    ends = counts.cumsum()  # (K,)
    starts = ends - counts
    of_chunk = np.array(new, dtype=np.int64).repeat(counts)  # (E,)
    numbers = np.arange(len(new)).repeat(counts)  # (E,)
    offsets = np.arange(len(numbers)) - starts[numbers]  # (E,)
    places = np.array([chunk.place for chunk in chunks])[of_chunk]  # (E,)
    return StepInputs(
        tokens=Spans.of(places, np.array(rows)[of_chunk], num_places, integers),
        ids=integers.put(
            chain.from_iterable(chunks[at].tokens[: chunks[at].num_inputs] for at in new)
        ),
        pieces=tuple(map(InputPiece, starts.tolist(), ends.tolist())),
        numbers=integers.put(numbers),
        index=integers.put(
            tables[of_chunk, offsets // block_size] * block_size + offsets % block_size
        ),
        groups=groups,
        paging=paging,
    )


def paging_of_inputs(
    chunks: Sequence[Chunk], tables: Ints, block_size: int, integers: Integers
) -> Paging:
    """Each token by itself, at the end of its sequence's input, so that it sees all of that.

    chunks: without their inputs   tables: (S, b), blocks of each one's input
    """
    counts = [len(chunk.tokens) for chunk in chunks]
    lengths = np.array([chunk.num_inputs for chunk in chunks]).repeat(counts)  # (T,)
    by_token = tables.repeat(counts, axis=0)  # (T, b)
    host = PagedOnHost(
        starts=tuple(range(len(lengths) + 1)),
        lengths=tuple(lengths.tolist()),
        tables=tuple(map(tuple, by_token.tolist())),
    )
    return Paging(
        starts=integers.put(host.starts, torch.int32),
        lengths=integers.put(lengths, torch.int32),
        tables=integers.put(by_token.astype(np.int32), torch.int32),
        block_size=block_size,
        most_tokens=1,
        most_positions=int(lengths.max()),
        host=host,
    )
