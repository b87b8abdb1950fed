"""A step's sequences in the form for paged kernels. Only values."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class PagedOnHost:
    """The numbers of `Paging` on the host, for kernels that are planned there."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    tables: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Paging:
    """A step's sequences in the form for paged kernels: S sequences, in the order of their tokens.

    starts: (S + 1,) int32, where the tokens of each begin in the step, and where the last ones end.
    lengths: (S,) int32, positions of each once the step's keys and values are written.
    tables: (S, b) int32, blocks of `block_size` tokens, padded with block 0.
    most_tokens, most_positions: no sequence has more in this step, or in all.
    captured: the captured step whose inputs these tensors are, rewritten in place; None if there
    is none.
    """

    starts: torch.Tensor
    lengths: torch.Tensor
    tables: torch.Tensor
    block_size: int
    most_tokens: int
    most_positions: int
    host: PagedOnHost
    captured: tuple[int, int] | None = None
