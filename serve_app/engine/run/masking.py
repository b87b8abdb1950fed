"""Takes tokens out of logits that masks of bits do not allow, on the device."""

from collections.abc import Sequence
from functools import cache

import torch
from torch.nn import functional as F

from serve_app.engine.step.transfer import to_device

_REFUSED = float("-inf")


def masked(logits: torch.Tensor, rows: Sequence[int | None], words: torch.Tensor) -> torch.Tensor:
    """logits: (n, V), not changed   rows: of the words for each row, None to leave it as it is
    words: (k, W) int32  ->  (n, V), -inf where the bit of a token is not set, or there is none
    """
    marked = [at for at, row in enumerate(rows) if row is not None]
    if not marked:
        return logits
    own = [row for row in rows if row is not None]
    if own != list(range(len(words))):
        words = words[to_device(own, torch.int64, logits.device)]  # (m, W)
    refusals = _refusals(words, logits.shape[1], logits.dtype)  # (m, V)
    if len(marked) == len(rows):
        return logits + refusals
    at = to_device(marked, torch.int64, logits.device)
    return logits.index_add(0, at, refusals)


def _refusals(words: torch.Tensor, size: int, dtype: torch.dtype) -> torch.Tensor:
    """Zeros, and -inf for bits that are not set, and beyond the end: to be added to logits.

    By a table of bytes, in a third of the time that shifts and filling take on a CPU.
    words: (m, W) int32  ->  (m, size)
    """
    each = words.contiguous().view(torch.uint8).int()  # (m, 4 W)
    found = F.embedding(each, _table(dtype, words.device)).flatten(1)  # (m, 32 W)
    if found.shape[1] < size:
        return F.pad(found, (0, size - found.shape[1]), value=_REFUSED)
    return found[:, :size]


@cache
def _table(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(256, 8): for each byte, what to add for each of its bits, the lowest first."""
    is_set = torch.arange(256).unsqueeze(1) >> torch.arange(8) & 1  # (256, 8)
    return torch.where(is_set.bool(), 0.0, _REFUSED).to(device, dtype)
