"""Takes tokens out of logits that masks of bits do not allow, on the device."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from serve_app.engine.step.transfer import to_device

_BITS = 32


def masked(logits: torch.Tensor, rows: Sequence[int | None], words: torch.Tensor) -> torch.Tensor:
    """logits: (n, V), not changed   rows: of the words for each row, None to leave it as it is
    words: (k, W) int32  ->  (n, V), -inf where the bit of a token is not set, or there is none
    """
    marked = [at for at, row in enumerate(rows) if row is not None]
    if not marked:
        return logits
    own = to_device([row for row in rows if row is not None], torch.int64, logits.device)
    refused = ~_bits(words[own], logits.shape[1])  # (m, V)
    if len(marked) == len(rows):
        return logits.masked_fill(refused, float("-inf"))
    at = to_device(marked, torch.int64, logits.device)
    return logits.index_copy(0, at, logits[at].masked_fill(refused, float("-inf")))


def _bits(words: torch.Tensor, size: int) -> torch.Tensor:
    """The first bits of each row, False beyond its end.   words: (m, W) int32  ->  (m, size)"""
    shifts = torch.arange(_BITS, dtype=torch.int32, device=words.device)
    found = ((words.unsqueeze(2) >> shifts) & 1).bool().flatten(1)  # (m, 32 W)
    return F.pad(found, (0, size - found.shape[1]))  # which also cuts
